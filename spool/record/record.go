// Package record writes and reads the payloads of the spool's log records, as
// proto/spool/v1/spool.proto defines them.
//
// It does so by hand, on the wire format, because these few messages are on
// the path of every mail and of every restart: a commit record is read in
// half the time and with a tenth of the garbage of the generated code, which
// matters a million times in a row. The tests hold both against each other.
// Only package spool uses it. It does no I/O, holds no state, keeps nothing
// of what it is given, and never panics on bad input: that is an error that
// wraps ErrPayload.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clrelay/clrelay/internal/mail"
)

// The kinds of record that the spool writes. They are stored: never renumber
// them. A spool that meets a kind it does not know refuses to open.
const (
	KindSegment uint8 = 1 // Segment: a segment was opened, sealed, or is carried on
	KindChunk   uint8 = 2 // ChunkHeader and raw content
	KindCommit  uint8 = 3 // Commit: a message
	KindAbort   uint8 = 4 // Abort: a message that never came to be
	KindAttempt uint8 = 5 // Attempt: delivery starts
	KindResult  uint8 = 6 // Result: what became of recipients
	KindForget  uint8 = 7 // Forget: whatever there was of the segment is dead here
)

// ErrPayload is wrapped by every error of the parsers.
var ErrPayload = errors.New("bad record payload")

// ChunkHeaderLen is the length of what precedes the content in a chunk record.
const ChunkHeaderLen = 12

// AppendChunkHeader appends the header of the chunk with that index of the
// message whose first chunk has sequence number first.
func AppendChunkHeader(dst []byte, first uint64, index uint32) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, first)
	return binary.LittleEndian.AppendUint32(dst, index)
}

// ParseChunkHeader reads what AppendChunkHeader wrote.
func ParseChunkHeader(data []byte) (first uint64, index uint32, err error) {
	if len(data) < ChunkHeaderLen {
		return 0, 0, fmt.Errorf("%w: chunk header of %d octets", ErrPayload, len(data))
	}
	return binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint32(data[8:]), nil
}

// SegmentState is where a segment stands.
type SegmentState uint8

// The values are stored: never renumber them.
const (
	SegmentOpen       SegmentState = 1
	SegmentRecovering SegmentState = 2
	SegmentSealed     SegmentState = 3
)

// Member is a node that holds a copy of a segment, known by name and store.
type Member struct {
	Node    string
	StoreID [16]byte
}

// Segment is the payload of a segment header record.
type Segment struct {
	State   SegmentState
	Owner   Member
	Members []Member
	LastSeq uint64
	End     uint64
	EndSet  bool // by the cluster: whatever is above End is void
}

// Forget is the payload of a forget record: whatever the log holds of the
// record's segment up to the place Below is dead. No file before From holds any.
type Forget struct {
	Index uint64 // of the Raft entry behind it
	Below uint64
	From  uint32
}

// Attempt is the payload of an attempt record.
type Attempt struct {
	Recipients []uint32
	Versions   []uint32
}

// Settled is the result of one recipient.
type Settled struct {
	Recipient uint32
	Version   uint32
	State     mail.State
	Attempts  uint32
	NextMS    int64 // Unix time, 0: none
	AtMS      int64
	Reply     mail.Reply
	Remote    string
	Orders    Orders
}

// Orders are what an operator said of one recipient beyond its state. They
// hold until it is final, and go with each of its results.
type Orders struct {
	Route string     // where it is sent, whatever the routes say; empty: by the routes
	EndMS int64      // Unix time when it is given up; 0: by the queue's settings
	Rule  string     // while held or in the trash: the hold rule that keeps it; empty: none
	Back  mail.State // while in the trash: what it is when it comes back, active or held
}

// For gives the orders that still mean something in a state.
func (o Orders) For(st mail.State) Orders {
	if st.Final() {
		return Orders{}
	}
	if st != mail.StateTrashed {
		o.Back = mail.StateActive
		if st != mail.StateHeld {
			o.Rule = ""
		}
	}
	return o
}

// Result is the payload of a result record.
type Result struct {
	ID       mail.ID
	Settled  []Settled
	Finished bool
	Victim   uint32 // with Finished: the log file that holds the commit record
}

// AppendSegment appends the encoded s.
func AppendSegment(dst []byte, s *Segment) []byte {
	dst = appendUint(dst, 1, uint64(s.State))
	dst = appendMember(dst, 2, s.Owner)
	for _, m := range s.Members {
		dst = appendMember(dst, 3, m)
	}
	dst = appendUint(dst, 4, s.LastSeq)
	dst = appendUint(dst, 5, s.End)
	return appendBool(dst, 6, s.EndSet)
}

func appendMember(dst []byte, num protowire.Number, m Member) []byte {
	var buf [128]byte
	b := appendString(buf[:0], 1, m.Node)
	b = appendBytes(b, 2, m.StoreID[:])
	return appendBytes(dst, num, b)
}

// ParseSegment decodes data.
func ParseSegment(data []byte) (*Segment, error) {
	s := &Segment{}
	err := fields(data, func(f field) error {
		switch f.num {
		case 1:
			s.State = SegmentState(f.val)
		case 2:
			return parseMember(f.data, &s.Owner)
		case 3:
			s.Members = append(s.Members, Member{})
			return parseMember(f.data, &s.Members[len(s.Members)-1])
		case 4:
			s.LastSeq = f.val
		case 5:
			s.End = f.val
		case 6:
			s.EndSet = f.val != 0
		}
		return nil
	})
	return s, err
}

// AppendForget appends the encoded f.
func AppendForget(dst []byte, f *Forget) []byte {
	dst = appendUint(dst, 1, f.Index)
	dst = appendUint(dst, 2, f.Below)
	return appendUint(dst, 3, uint64(f.From))
}

// ParseForget decodes data.
func ParseForget(data []byte) (*Forget, error) {
	f := &Forget{}
	err := fields(data, func(v field) error {
		switch v.num {
		case 1:
			f.Index = v.val
		case 2:
			f.Below = v.val
		case 3:
			f.From = uint32(v.val)
		}
		return nil
	})
	return f, err
}

func parseMember(data []byte, m *Member) error {
	return fields(data, func(f field) error {
		switch f.num {
		case 1:
			m.Node = string(f.data)
		case 2:
			if len(f.data) != len(m.StoreID) {
				return fmt.Errorf("%w: store ID of %d octets", ErrPayload, len(f.data))
			}
			copy(m.StoreID[:], f.data)
		}
		return nil
	})
}

// AppendAbort appends an encoded abort. victim is the log file that holds a
// commit record of the message, 0 if there is none.
func AppendAbort(dst []byte, reason string, victim uint32) []byte {
	return appendUint(appendString(dst, 1, reason), 2, uint64(victim))
}

// Victim tells whether a record finishes a message that has a commit record,
// and which log file that lies in.
func Victim(kind uint8, data []byte) (victim uint32, finishes bool, err error) {
	flag := false
	err = fields(data, func(f field) error {
		switch {
		case kind == KindResult && f.num == 3:
			flag = f.val != 0
		case kind == KindResult && f.num == 4, kind == KindAbort && f.num == 2:
			victim = uint32(f.val)
		}
		return nil
	})
	return victim, victim != 0 && (flag || kind == KindAbort), err
}

// AppendAttempt appends the encoded a.
func AppendAttempt(dst []byte, a *Attempt) []byte {
	dst = appendPacked(dst, 1, a.Recipients)
	return appendPacked(dst, 2, a.Versions)
}

// ParseAttempt decodes data.
func ParseAttempt(data []byte) (*Attempt, error) {
	a := &Attempt{}
	err := fields(data, func(f field) (err error) {
		switch f.num {
		case 1:
			a.Recipients, err = f.uint32s(a.Recipients)
		case 2:
			a.Versions, err = f.uint32s(a.Versions)
		}
		return err
	})
	if err == nil && len(a.Recipients) != len(a.Versions) {
		err = fmt.Errorf("%w: attempt at %d recipients with %d versions", ErrPayload, len(a.Recipients), len(a.Versions))
	}
	return a, err
}

// AppendResult appends the encoded r.
func AppendResult(dst []byte, r *Result) []byte {
	dst = appendBytes(dst, 1, r.ID[:])
	var buf [512]byte
	for i := range r.Settled {
		dst = appendBytes(dst, 2, appendSettled(buf[:0], &r.Settled[i]))
	}
	if r.Finished {
		dst = appendUint(dst, 3, 1)
	}
	return appendUint(dst, 4, uint64(r.Victim))
}

func appendSettled(dst []byte, s *Settled) []byte {
	dst = appendUint(dst, 1, uint64(s.Recipient))
	dst = appendUint(dst, 2, uint64(s.Version))
	state, trash := s.State, uint64(0)
	if state == mail.StateTrashed {
		state, trash = mail.StateHeld, 1
		if s.Orders.Back == mail.StateHeld {
			trash = 2
		}
	}
	dst = appendUint(dst, 3, uint64(state))
	dst = appendUint(dst, 4, uint64(s.Attempts))
	dst = appendUint(dst, 5, uint64(s.NextMS))
	dst = appendUint(dst, 6, uint64(s.AtMS))
	dst = appendUint(dst, 7, uint64(s.Reply.Code))
	dst = appendUint(dst, 8, uint64(s.Reply.Enhanced[0]))
	dst = appendUint(dst, 9, uint64(s.Reply.Enhanced[1]))
	dst = appendUint(dst, 10, uint64(s.Reply.Enhanced[2]))
	dst = appendString(dst, 11, s.Reply.Text)
	dst = appendString(dst, 12, s.Remote)
	dst = appendUint(dst, 13, trash)
	dst = appendString(dst, 14, s.Orders.Route)
	dst = appendUint(dst, 15, uint64(s.Orders.EndMS))
	return appendString(dst, 16, s.Orders.Rule)
}

// ParseResult decodes data into r; the memory of r.Settled is used again.
func ParseResult(data []byte, r *Result) error { return parseResult(data, r, true) }

// SkimResult is ParseResult without the texts.
func SkimResult(data []byte, r *Result) error { return parseResult(data, r, false) }

func parseResult(data []byte, r *Result, texts bool) error {
	*r = Result{Settled: r.Settled[:0]}
	return fields(data, func(f field) error {
		switch f.num {
		case 1:
			return f.id(&r.ID)
		case 2:
			r.Settled = append(r.Settled, Settled{})
			return parseSettled(f.data, &r.Settled[len(r.Settled)-1], texts)
		case 3:
			r.Finished = f.val != 0
		case 4:
			r.Victim = uint32(f.val)
		}
		return nil
	})
}

// noState is that of a result with a state that no record may hold.
const noState mail.State = 255

func parseSettled(data []byte, s *Settled, texts bool) error {
	trash := uint64(0)
	err := fields(data, func(f field) error {
		switch f.num {
		case 1:
			s.Recipient = uint32(f.val)
		case 2:
			s.Version = uint32(f.val)
		case 3:
			s.State = mail.State(f.val)
		case 4:
			s.Attempts = uint32(f.val)
		case 5:
			s.NextMS = int64(f.val)
		case 6:
			s.AtMS = int64(f.val)
		case 7:
			s.Reply.Code = int(f.val)
		case 8, 9, 10:
			s.Reply.Enhanced[f.num-8] = int(f.val)
		case 11:
			if texts {
				s.Reply.Text = string(f.data)
			}
		case 12:
			if texts {
				s.Remote = string(f.data)
			}
		case 13:
			trash = f.val
		case 14:
			s.Orders.Route = string(f.data)
		case 15:
			s.Orders.EndMS = int64(f.val)
		case 16:
			s.Orders.Rule = string(f.data)
		}
		return nil
	})
	switch {
	case s.State == mail.StateTrashed: // that is for memory alone
		s.State = noState
	case trash != 0 && s.State == mail.StateHeld:
		s.State = mail.StateTrashed
		if trash == 2 {
			s.Orders.Back = mail.StateHeld
		}
	}
	return err
}
