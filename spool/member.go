package spool

import (
	"errors"
	"fmt"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/take"
	"github.com/clrelay/clrelay/spool/wal"
)

// Errors of a spool that is a member of a cluster; all come wrapped.
var (
	// ErrMoved is a Ticket's word that the records were never acknowledged in
	// their segment and never will be: the message has to go elsewhere.
	ErrMoved = errors.New("the segment takes no more")
	// ErrNotOwner says that the message's segment is not this node's now.
	ErrNotOwner = record.ErrNotOwner
	// ErrNoSegment says that nothing is known of the segment here.
	ErrNoSegment = record.ErrNoSegment
	// ErrUnknownRecord says that a record is of a kind that this program does
	// not know; nothing of the call was done.
	ErrUnknownRecord = record.ErrUnknownRecord
	// ErrRefused says that records do not fit what is here: an older epoch, a
	// place above the segment's end, a payload that is none. Nothing of the
	// call was done.
	ErrRefused = record.ErrRefused
)

// Placement decides, in a cluster, where new messages go, and tells when they
// are safe on other nodes. Segments that it names have been brought here by
// SetSegment and are owned by Claim.
type Placement interface {
	// Pick names an open segment of this node's for a new message. The error
	// is a *mail.Reply when there is none. Each Pick without an error is
	// followed by one Arrived.
	Pick() (segment, epoch uint64, err error)
	// Append takes the records of one append, all of one segment, in the order
	// of the log, and their commit in the own log. It is called under the
	// spool's lock and must not block or call the spool; nobody may call the
	// spool while holding a lock that it takes. The records' data
	// stay as they are until Wait has returned; the slice recs itself does not
	// outlive the call.
	Append(recs []wal.Record, c *wal.Commit) Ticket
	// Settled takes a result or abort record of an owned segment, likewise.
	// Its Seq names the message by its first chunk: it has no number of its
	// own.
	Settled(rec wal.Record, c *wal.Commit) Ticket
	// Arrived says that no more records of a message of this segment will
	// come: it was accepted, aborted or moved.
	Arrived(segment uint64)
}

// Ticket is an append on its way to the members of its segment.
type Ticket interface {
	// Wait gives nil when the records are durable on the own disk and on those
	// of all members, and this node may say so. ErrMoved says that they were
	// never acknowledged in that segment and never will be. Any other error:
	// nobody knows; the client gets 451.
	Wait() error
}

// What travels between the members of a segment, and what Raft says of it.
type (
	// Copy is a record on its way between nodes: a chunk, commit, abort or
	// result, see package record for the kinds.
	Copy = record.Copy
	// Segment is what Raft says of a segment.
	Segment = record.View
	// HeldSegment is what this node has of a segment.
	HeldSegment = state.Held
	// Inventory is what a node holds unfinished of a segment.
	Inventory = record.Inventory
	// LiveMessage is one message of an Inventory.
	LiveMessage = record.LiveMessage
)

// Take appends records of a segment as its member, in the order in which its
// owner appended them and without a gap. What is here already is skipped. Results and aborts change what is
// here, in whatever order they come; those of messages that are not here
// change nothing. All of the call is in the log when it returns, or nothing:
// then the error is ErrNoSegment, ErrRefused, ErrUnknownRecord, or ErrNoSpace
// for chunks and commits while the disk is below its reserve. (Results without
// room are the exception: some may be there; the call is to be repeated.) The data must
// not change until the commit is written, and it must be waited for even if
// all was here already. A nil commit waits for nothing: all is durable.
//
// After a restart the chunks of a message without a commit are no longer
// known, and its commit is refused.
func (s *Spool) Take(segment, epoch uint64, recs []Copy) (*wal.Commit, error) {
	return s.take(segment, epoch, recs, false)
}

// Put is Take for the chunks and commits of messages that come out of order:
// copies fetched for a new member, or in place of damaged ones. Chunks of one
// message come in order and before its commit, in as many calls as one likes.
// A chunk of a message that is here takes the place of the one there was. In a
// segment without an end only what was here once can be put.
func (s *Spool) Put(segment, epoch uint64, recs []Copy) (*wal.Commit, error) {
	return s.take(segment, epoch, recs, true)
}

func (s *Spool) take(segment, epoch uint64, recs []Copy, put bool) (*wal.Commit, error) {
	full := s.Ready() != nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, wal.ErrClosed
	}
	b, err := take.New(s.state, segment, epoch, recs, put)
	if err != nil {
		return nil, err
	}
	if len(b.Records) > 0 {
		var c *wal.Commit
		if err = ErrNoSpace; !full {
			c, err = s.log.Append(b.Records...)
		}
		if err != nil {
			b.Undo()
			return nil, fmt.Errorf("spool: copies of segment %d: %w", segment, err)
		}
		s.wrote(c)
		b.Done(c.Pos)
	}
	for i := range b.Results {
		f := &b.Results[i]
		if m := s.state.Of(segment, f); m != nil {
			if err := s.unite(m, f.Result.Settled, f.Result.Finished); err != nil {
				return nil, err
			}
		}
	}
	return s.last, nil
}

// unite brings a message up to results from elsewhere. s.mu is held.
func (s *Spool) unite(m *Message, settled []record.Settled, finished bool) error {
	rec := s.state.Unite(m, settled, finished)
	if rec == nil {
		return nil
	}
	_, err := s.record(m, rec)
	return err
}

// SetSegment brings here what Raft says of a segment that this node is a
// member of. A lower epoch than the known one changes nothing. Once EndSet,
// whatever lies above End is void here for good. It returns when that is
// appended. A new, open segment of which this node is the owner is owned at
// once; every other needs a Claim.
func (s *Spool) SetSegment(g Segment) (*wal.Commit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.state.Segment(g.ID) != nil
	owned := known && s.state.Segment(g.ID).Owned
	seg, told, voided, err := s.state.Set(g, s.compactor.Head())
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if owned {
		s.counts.HandedOver += uint64(voided)
	}
	seg.Owned = seg.Owned || !known && seg.Own(s.self())
	if told {
		err = s.putHeader(seg)
		s.compactor.Wake()
	}
	return s.last, err
}

// Held lists what is here of replicated segments, rising by ID.
func (s *Spool) Held() []HeldSegment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Held()
}

// Claim makes this node the segment's owner: its unfinished messages are the
// queue's from now on, and are visited one by one as Each does. takeover says
// that another node, or nobody knows who, delivered from it until now: every
// recipient whose time had come is then counted as a possible duplicate. A
// message whose envelope cannot be read is left out and named in the error;
// the others are visited.
func (s *Spool) Claim(segment uint64, takeover bool, visit Visit) error {
	s.mu.Lock()
	g, err := s.state.Shared(segment)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	msgs, unsure := s.state.Own(g, takeover || s.store.UnsyncedLost(), s.opts.Now())
	s.counts.TakenOver += uint64(len(msgs))
	s.mu.Unlock()
	s.opts.Metrics.PossibleDuplicates.Add(float64(unsure))
	if takeover {
		s.opts.Metrics.Takeovers.Inc()
	}
	var errs []error
	for _, m := range msgs {
		if err := s.visit(m, visit); err != nil && !errors.Is(err, ErrFinished) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Disclaim ends this node's ownership: attempts at the segment's messages and
// results of them fail with ErrNotOwner from now on.
func (s *Spool) Disclaim(segment uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.state.Shared(segment)
	if err == nil {
		s.counts.HandedOver += uint64(s.state.Disown(g))
	}
	return err
}

// Inventory tells what is here, unfinished, of a segment.
func (s *Spool) Inventory(segment uint64) (Inventory, error) {
	inv, err := s.read.Inventory(segment)
	inv.Suspect = s.suspect
	return inv, err
}

// Merge brings the results here up to those of another member's inventory.
// With complete, what is not in it and not above its Last is finished here
// too, unless the other store is suspect. missing are the first chunks of
// those messages of it that are not here, or not whole: Put brings them, and
// a Merge of an inventory that was made after the last Put shows that nothing
// is left to bring. A piece of an inventory can be merged by itself. The commit
// is as that of Take.
func (s *Spool) Merge(segment uint64, inv Inventory, complete bool) (missing []uint64, c *wal.Commit, err error) {
	var rec record.Result
	for i := range inv.Live {
		l := &inv.Live[i]
		rec = record.Result{Settled: rec.Settled[:0]}
		if len(l.Results) > 0 {
			err := record.ParseResult(l.Results, &rec)
			if err == nil {
				err = rec.Check()
			}
			if err != nil {
				return nil, nil, fmt.Errorf("spool: inventory of segment %d: message %d: %w", segment, l.First, err)
			}
		}
		lacks, err := s.mergeOne(segment, l, &rec)
		if err != nil {
			return nil, nil, err
		}
		if n := len(missing); lacks && (n == 0 || missing[n-1] != l.First) {
			missing = append(missing, l.First)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.state.Shared(segment)
	if err != nil {
		return nil, nil, err
	}
	if !complete {
		return missing, s.last, nil
	}
	for _, m := range s.state.Absent(g, &inv) {
		if err := s.unite(m, nil, true); err != nil {
			return nil, nil, err
		}
	}
	return missing, s.last, nil
}

func (s *Spool) mergeOne(segment uint64, l *LiveMessage, rec *record.Result) (lacks bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.state.Shared(segment)
	if err != nil {
		return false, err
	}
	if len(rec.Settled) > 0 {
		if m := s.state.Of(segment, &state.Foreign{First: l.First, Result: record.Result{ID: rec.ID}}); m != nil {
			err = s.unite(m, rec.Settled, false)
		}
	}
	return s.state.Lacks(g, l, s.suspect), err
}

// Complete notes that this store has all of a segment up to last, which is not
// above its end: all pieces of an inventory with that Last were merged, and
// nothing was missing. Until then a store that got a segment by Put has
// nothing of it.
func (s *Spool) Complete(segment, last uint64) (*wal.Commit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.state.Shared(segment)
	if err == nil && (!g.EndSet || last > g.End) {
		err = fmt.Errorf("spool: segment %d, complete up to %d: %w", segment, last, ErrRefused)
	}
	if err == nil && last > g.Last {
		before := g.Last
		g.Last = last
		if err = s.putHeader(g); err != nil {
			g.Last = before // nothing is complete that a restart does not know
		}
	}
	return s.last, err
}

// Read gives the chunks and the commit of an unfinished message one by one,
// in order, as Put takes them. The data are valid during the call of give
// alone; there is never more than one chunk in memory. ErrFinished says that
// the message is finished, or was never here.
func (s *Spool) Read(segment, first uint64, give func(Copy) error) error {
	return s.read.Read(segment, first, give)
}

// Forget drops whatever is here of a segment; index is that of the Raft entry
// that allows it. It returns when that is durable.
func (s *Spool) Forget(segment uint64, index uint64) error {
	s.mu.Lock()
	if !state.Replicated(segment) {
		s.mu.Unlock()
		return fmt.Errorf("spool: segment %d is a local one: %w", segment, ErrRefused)
	}
	g := s.state.Segment(segment)
	if g == nil && index <= s.state.Floor() {
		s.mu.Unlock()
		return nil
	}
	f := s.state.Forget(segment, index, s.newest())
	data := record.AppendForget(nil, f)
	c, err := s.append(wal.Record{Header: wal.Header{Segment: segment, Kind: wal.Kind(record.KindForget)}, Data: [][]byte{data}})
	if err == nil {
		if g != nil {
			s.counts.HandedOver += uint64(s.state.Disown(g))
		}
		s.state.Forgotten(segment, f, c.Pos(0), wal.RecordSize(len(data)))
		s.compactor.Wake()
	}
	s.mu.Unlock()
	if err == nil {
		err = c.WaitDurable()
	}
	if err != nil {
		return fmt.Errorf("spool: forgetting segment %d: %w", segment, err)
	}
	return nil
}

// newest is at or above the place of every record in the log, and below that
// of the next. s.mu is held.
func (s *Spool) newest() wal.Pos { return s.top }

// Floor is the highest index that Forget was ever called with.
func (s *Spool) Floor() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Floor()
}

// Suspect tells whether Open found damage: then nothing may be deleted
// elsewhere because it is not here.
func (s *Spool) Suspect() bool { return s.suspect }

// StoreID is the identity of the data here, made with the directory.
func (s *Spool) StoreID() [16]byte { return s.store.ID }
