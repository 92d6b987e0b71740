package state

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state/books"
	"github.com/clrelay/clrelay/spool/state/index"
	"github.com/clrelay/clrelay/spool/wal"
)

// State is all of it. New makes one.
type State struct {
	index    *index.Index[Message, *Message]
	segments map[uint64]*Segment
	books    *books.Books
	starts   *books.Starts[*Message]
	tombs    *books.Tombs
	// OwnAll has Load give replicated segments for this node's, for those who
	// only look.
	OwnAll  bool
	adopted uint64
	orders  orders
}

// New makes an empty state.
func New() *State {
	b := books.New()
	return &State{
		index: index.New[Message](), segments: map[uint64]*Segment{},
		books: b, starts: books.NewStarts[*Message](b), tombs: books.NewTombs(b),
	}
}

// Find gives an unfinished message, or nil.
func (s *State) Find(id mail.ID) *Message { return s.index.Find(id) }

// Messages counts the unfinished messages.
func (s *State) Messages() int { return s.index.Len() }

// All gives the unfinished messages in the order of arrival.
func (s *State) All() []*Message {
	out := make([]*Message, 0, s.index.Len())
	for _, g := range s.segments {
		out = append(out, g.msgs...)
	}
	slices.SortFunc(out, func(a, b *Message) int {
		return cmp.Or(cmp.Compare(a.arrivedMS(), b.arrivedMS()), slices.Compare(a.id[:], b.id[:]))
	})
	return out
}

// Segments counts the segments.
func (s *State) Segments() int { return len(s.segments) }

// Segment gives a segment by its id, or nil.
func (s *State) Segment(id uint64) *Segment { return s.segments[id] }

// Open enters a segment.
func (s *State) Open(g *Segment) { s.segments[g.ID] = g }

// Retire forgets a segment that has nothing left to do. Records of it that
// are still in the log are dead: the messages' by the results that finished
// them, which outlive them.
func (s *State) Retire(g *Segment) {
	delete(s.segments, g.ID)
	if g.header != 0 {
		s.books.Drop(g.header.File(), g.headerLen)
		g.header = 0
	}
}

// HeaderAt notes where a segment's newest header record lies.
func (s *State) HeaderAt(g *Segment, pos wal.Pos, size int64) {
	if g.header != 0 {
		s.books.Drop(g.header.File(), g.headerLen)
	}
	g.header, g.headerLen = pos, size
	s.books.Add(pos.File(), size)
}

// Told notes that the segment's newest header record, just appended, has its
// View and its Last.
func (g *Segment) Told() { g.told, g.since, g.behind = g.Last, 0, false }

// Advance notes that the segment's newest record has that number and lies in
// that file.
func (g *Segment) Advance(seq uint64, file uint32) {
	if g.since == 0 {
		g.since = file
	}
	g.Last = seq
}

// Pend notes a record of a message that is still arriving, Unpend that it is
// no longer one.
func (s *State) Pend(pos wal.Pos) { s.books.Page(pos.File()).Pending++ }

// Unpend takes back a Pend.
func (s *State) Unpend(pos wal.Pos) { s.books.Page(pos.File()).Pending-- }

// Killed notes that the record at killer has ended a message that is not in
// the index, whose commit record lies in the file victim.
func (s *State) Killed(killer wal.Pos, victim uint32) { s.books.Kill(killer.File(), victim) }

// Arrival is a message that has arrived.
type Arrival struct {
	Segment    *Segment
	First      uint64 // sequence number of the first chunk
	Seq        uint64 // and of the commit record
	Size       uint64
	Chunks     []Chunk
	Commit     wal.Pos
	CommitSize int64 // of the commit record on the disk
}

// NewMessage makes the handle of a message, which Enter enters. While there is
// no Commit yet, Land is still to be called.
func NewMessage(env *mail.Envelope, a *Arrival) *Message {
	m := &Message{
		id: env.ID, seg: a.Segment, commitLen: units(a.CommitSize),
		first: uint32(a.First), size: uint32(a.Size), n: uint16(len(env.Recipients)),
	}
	m.stamp(env.Arrived.UnixMilli(), a.Seq)
	m.holdUntil(millis(env.Hold))
	if a.Commit != 0 {
		m.Land(a.Chunks, a.Commit)
	}
	return m
}

// Land notes where the records of a new message lie.
func (m *Message) Land(chunks []Chunk, commit wal.Pos) {
	m.commit = commit
	m.place(chunks)
}

// Enter puts a message into the index.
func (s *State) Enter(m *Message) {
	if m.seg.Owned {
		s.index.Insert(m)
	}
	m.seg.insert(m)
	m.seg.count++
	m.seg.bytes += int64(m.size)
	s.books.Add(m.commit.File(), m.commitSize())
	for _, c := range m.chunks() {
		if c.Pos != 0 {
			s.books.Add(c.Pos.File(), wal.RecordSize(int(c.Len)))
		}
	}
}

// Commit tells where a message's commit record lies; 0 when it is finished.
func (s *State) Commit(m *Message) wal.Pos { return m.commit }

// Chunks counts a message's chunks.
func (s *State) Chunks(m *Message) int { return len(m.chunks()) }

// Chunk tells where a message's chunk i lies; ok is false when there is none.
func (s *State) Chunk(m *Message, i int) (c Chunk, ok bool) {
	if m.finished() {
		return Chunk{}, false
	}
	if cs := m.chunks(); i < len(cs) {
		return cs[i], true
	}
	return Chunk{}, false
}

// Owns tells whether a chunk record belongs to a message. It needs no lock.
func (m *Message) Owns(h wal.Header, first uint64) bool {
	return h.Segment == m.seg.ID && first == uint64(m.first)
}

// Header is that of records about a message.
func (m *Message) Header(kind uint8) wal.Header {
	return wal.Header{Segment: m.seg.ID, Epoch: m.seg.Epoch, Seq: uint64(m.first), Kind: wal.Kind(kind)}
}

// Standing is a recipient's state and where the record of it lies.
type Standing struct {
	record.RecipientState
	Pos wal.Pos // 0: there is none
}

// Standings gives those of all recipients.
func (s *State) Standings(m *Message, dst []Standing) []Standing {
	rcpts := m.rcpts()
	for i := range rcpts {
		st := Standing{rcpts[i].Public(), wal.Pos(rcpts[i].At())}
		st.Orders = s.orders.get(m, i)
		dst = append(dst, st)
	}
	return dst
}

// ResultAt tells where a recipient's newest result record lies; 0 when the
// message is finished.
func (s *State) ResultAt(m *Message, rcpt int) wal.Pos {
	if m.finished() {
		return 0
	}
	return wal.Pos(m.rcpts()[rcpt].At())
}

// Attempt makes the record of an attempt at recipients. early says that the
// time of one of them has not come yet.
func (s *State) Attempt(m *Message, recipients []int, now time.Time) (a *record.Attempt, early bool, err error) {
	if m.finished() {
		return nil, false, fmt.Errorf("spool: attempt at message %s: %w", m.id, record.ErrFinished)
	}
	if !m.seg.Owned {
		return nil, false, fmt.Errorf("spool: attempt at message %s: %w", m.id, record.ErrNotOwner)
	}
	a = &record.Attempt{Recipients: make([]uint32, 0, len(recipients)), Versions: make([]uint32, 0, len(recipients))}
	rcpts := m.rcpts()
	var final []int
	for _, i := range recipients {
		if i < 0 || i >= len(rcpts) {
			return nil, false, fmt.Errorf("spool: attempt at message %s: it has no recipient %d", m.id, i)
		}
		if rcpts[i].State.Final() {
			final = append(final, i)
		}
		a.Recipients = append(a.Recipients, uint32(i))
		a.Versions = append(a.Versions, rcpts[i].Version+1)
		early = early || !rcpts[i].Due(record.Seconds(now.UnixMilli()))
	}
	if final != nil {
		return nil, false, &FinalError{Recipients: final}
	}
	return a, early, nil
}

// FinalError says that some of the recipients to be tried have a final result
// already: another node's, that came late. Nothing was announced.
type FinalError struct{ Recipients []int }

// Error names their number.
func (e *FinalError) Error() string {
	return fmt.Sprintf("spool: %d recipients have a final result already", len(e.Recipients))
}

// Started notes where the record of an attempt lies.
func (s *State) Started(m *Message, recipients []int, pos wal.Pos, size int64) {
	s.starts.Add(m, pos, size, slices.Clone(recipients))
}

// Settle makes the record of those results that say something new; nil when
// none does. If it leaves no recipient without a final result, it says so.
func (s *State) Settle(m *Message, results []record.Outcome) (*record.Result, error) {
	if m.finished() {
		return nil, fmt.Errorf("spool: settling message %s: %w", m.id, record.ErrFinished)
	}
	if !m.seg.Owned {
		return nil, fmt.Errorf("spool: settling message %s: %w", m.id, record.ErrNotOwner)
	}
	rcpts := m.rcpts()
	rec := &record.Result{ID: m.id, Settled: make([]record.Settled, 0, len(results))}
	left := m.left()
	for i := range results {
		r := &results[i]
		if r.Recipient < 0 || r.Recipient >= len(rcpts) {
			return nil, fmt.Errorf("spool: settling message %s: it has no recipient %d", m.id, r.Recipient)
		}
		at := &rcpts[r.Recipient]
		if at.State.Final() || slices.ContainsFunc(rec.Settled, func(o record.Settled) bool { return int(o.Recipient) == r.Recipient }) {
			continue
		}
		if r.State.Final() {
			left--
		}
		orders := s.orders.get(m, r.Recipient)
		if r.Orders != nil {
			orders = *r.Orders
		}
		rec.Settled = append(rec.Settled, record.Settled{
			Recipient: uint32(r.Recipient), Version: at.Version + 1, State: r.State, Attempts: r.Attempts,
			NextMS: millis(r.Next), AtMS: millis(r.At), Reply: r.Reply, Remote: r.Remote, Orders: orders.For(r.State),
		})
	}
	if len(rec.Settled) == 0 {
		return nil, nil
	}
	if left == 0 {
		rec.Finished, rec.Victim = true, m.commit.File()
	}
	return rec, nil
}

// Settled brings the index up to a result record that lies at pos. If it
// finishes the message, that is gone.
func (s *State) Settled(m *Message, rec *record.Result, pos wal.Pos, size int64) {
	rcpts := m.rcpts()
	share := record.ShareOf(size, len(rec.Settled))
	for i := range rec.Settled {
		r := &rcpts[rec.Settled[i].Recipient]
		old, bytes := wal.Pos(r.At()), r.Bytes()
		if !r.Merge(&rec.Settled[i]) {
			continue
		}
		if old != 0 {
			s.books.Drop(old.File(), bytes)
		}
		r.Put(uint64(pos))
		r.Share = share
		s.orders.set(m, int(rec.Settled[i].Recipient), rec.Settled[i].Orders)
		s.books.Add(pos.File(), r.Bytes())
	}
	if rec.Finished {
		s.finish(m, pos)
		return
	}
	s.starts.End(m, func(i int) bool {
		return slices.ContainsFunc(rec.Settled, func(o record.Settled) bool { return int(o.Recipient) == i })
	})
}

// finish takes a message out of the index; the record at killer has finished
// it.
func (s *State) finish(m *Message, killer wal.Pos) {
	s.books.Kill(killer.File(), m.commit.File())
	s.remove(m)
	if g := m.seg; g.State == record.SegmentSealed && g.Empty() && !Replicated(g.ID) {
		s.Retire(g)
	}
}

// remove takes a message out of the index and off the books.
func (s *State) remove(m *Message) {
	s.starts.EndAll(m)
	s.orders.forget(m)
	rcpts := m.rcpts()
	for i := range rcpts {
		if r := &rcpts[i]; wal.Pos(r.At()) != 0 {
			s.books.Drop(wal.Pos(r.At()).File(), r.Bytes())
		}
	}
	for _, c := range m.chunks() {
		if c.Pos != 0 {
			s.books.Drop(c.Pos.File(), wal.RecordSize(int(c.Len)))
		}
	}
	s.books.Drop(m.commit.File(), m.commitSize())
	m.commit = 0
	if m.seg.Owned {
		s.index.Remove(m)
	}
	m.seg.remove(m)
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
