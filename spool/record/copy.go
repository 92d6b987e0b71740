package record

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/clrelay/clrelay/internal/mail"
)

// Copy is a record on its way between nodes.
type Copy struct {
	Seq  uint64   // its number in the segment; for a result or an abort that of the message's first chunk
	Kind uint8    // KindChunk, KindCommit, KindAbort or KindResult
	Data [][]byte // the payload, in parts
}

// Size is the length of the payload.
func (c *Copy) Size() (n int) {
	for _, p := range c.Data {
		n += len(p)
	}
	return n
}

// Payload gives the payload in one piece.
func (c *Copy) Payload() []byte {
	if len(c.Data) == 1 {
		return c.Data[0]
	}
	return slices.Concat(c.Data...)
}

// Head gives the beginning of the payload, as much as buf has room for.
func (c *Copy) Head(buf []byte) []byte {
	if len(c.Data) > 0 && len(c.Data[0]) >= len(buf) {
		return c.Data[0][:len(buf)]
	}
	n := 0
	for _, p := range c.Data {
		n += copy(buf[n:], p)
	}
	return buf[:n]
}

// AllFirsts is the Upto of an inventory of a whole segment.
const AllFirsts = uint64(math.MaxUint64)

// Inventory is what a node holds unfinished of a segment, or of a part of it:
// of the messages whose first chunk is not below From and not above Upto.
type Inventory struct {
	Segment uint64
	Last    uint64 // whatever is not above it and not in Live was finished here
	Suspect bool   // the store is damaged: what is not in Live may be lost instead
	From    uint64
	Upto    uint64
	Live    []LiveMessage
}

// LiveMessage is one unfinished message.
type LiveMessage struct {
	First  uint64 // sequence number of the first chunk
	Commit uint64 // and of the commit record
	// Results is an encoded Result of recipients that have one. There may be
	// more of the same message, one after another.
	Results []byte
}

// Bounds of an encoded inventory.
const (
	// PieceMax bounds a piece.
	PieceMax = 1 << 20
	// ResultsMax bounds the Results of one LiveMessage: whoever makes them
	// begins another before.
	ResultsMax = PieceMax / 2
	// SettledMax bounds the encoded form of a Settled without its texts.
	SettledMax = 128
)

// Sort brings the messages into their order, as Pieces wants them.
func (inv *Inventory) Sort() {
	slices.SortStableFunc(inv.Live, func(a, b LiveMessage) int { return cmp.Compare(a.First, b.First) })
}

// Pieces encodes the inventory in pieces of at most PieceMax octets, each of
// which is an inventory of a part of the segment. There is at least one.
func (inv *Inventory) Pieces() [][]byte {
	var out [][]byte
	var body []byte
	from := inv.From
	end := func(upto uint64) {
		b := appendUint(make([]byte, 0, len(body)+64), 1, inv.Segment)
		b = appendUint(b, 2, inv.Last)
		b = appendBool(b, 3, inv.Suspect)
		b = appendUint(b, 4, from)
		b = appendUint(b, 5, upto)
		out = append(out, append(b, body...))
		body, from = body[:0], upto+1
	}
	var buf []byte
	for i := range inv.Live {
		l := &inv.Live[i]
		buf = appendUint(buf[:0], 1, l.First)
		buf = appendUint(buf, 2, l.Commit)
		if len(l.Results) > 0 {
			buf = appendBytes(buf, 3, l.Results)
		}
		// One message in two pieces: the second's range begins with it too, so
		// that it is absent from neither.
		if len(body) > 0 && len(body)+len(buf)+128 > PieceMax {
			if i > 0 && inv.Live[i-1].First == l.First {
				end(l.First)
				from = l.First
			} else {
				end(l.First - 1)
			}
		}
		body = appendBytes(body, 6, buf)
	}
	end(inv.Upto)
	return out
}

// ParseInventory decodes a piece. It points into data. Lists of messages that
// are not in their order, or out of the piece's range, are errors.
func ParseInventory(data []byte) (Inventory, error) {
	var inv Inventory
	err := fields(data, func(f field) error {
		switch f.num {
		case 1:
			inv.Segment = f.val
		case 2:
			inv.Last = f.val
		case 3:
			inv.Suspect = f.val != 0
		case 4:
			inv.From = f.val
		case 5:
			inv.Upto = f.val
		case 6:
			var l LiveMessage
			if err := l.parse(f.data); err != nil {
				return err
			}
			inv.Live = append(inv.Live, l)
		}
		return nil
	})
	if err != nil {
		return Inventory{}, err
	}
	low := inv.From
	for _, l := range inv.Live {
		if l.First < low || l.First > inv.Upto || l.Commit <= l.First {
			return Inventory{}, fmt.Errorf("%w: message %d with commit %d in an inventory from %d to %d", ErrPayload, l.First, l.Commit, low, inv.Upto)
		}
		low = l.First
	}
	return inv, nil
}

func (l *LiveMessage) parse(data []byte) error {
	return fields(data, func(f field) error {
		switch f.num {
		case 1:
			l.First = f.val
		case 2:
			l.Commit = f.val
		case 3:
			l.Results = f.data
		}
		return nil
	})
}

// VersionMax bounds the versions of results: no recipient ever has so many.
const VersionMax = math.MaxUint32 / 2

// Check tells whether a result that another node sends may be entered.
func (r *Result) Check() error {
	for i := range r.Settled {
		if o := &r.Settled[i]; o.State > mail.StateTrashed || o.Version > VersionMax {
			return fmt.Errorf("%w: result of recipient %d with state %d, version %d", ErrPayload, o.Recipient, o.State, o.Version)
		}
	}
	return nil
}
