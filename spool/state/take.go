package state

import (
	"fmt"
	"math"
	"slices"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/wal"
)

// Bounds of what is arriving, which memory keeps: messages of a segment, and
// chunks of a message.
const (
	arrivalsMax = 1 << 16
	chunksMax   = 1 << 20
)

// arrival is a message that comes from another node and has no commit yet.
type arrival struct {
	chunks []Chunk  // Pos 0: not appended yet
	seqs   []uint32 // of them
	done   bool     // its commit is part of the Batch under way
}

func (s *State) dropArrivals(g *Segment) {
	for first := range g.arrivals {
		s.giveUp(g, first)
	}
}

// Batch are records of other nodes on their way into the log. Plan makes one.
// Then either Done or Undo is called, before anything else happens to the
// State.
type Batch struct {
	Records []wal.Record // to be appended at once; may be empty
	Results []Foreign    // to be united, one by one, after Done

	s     *State
	g     *Segment
	steps []step // one for each of Records
	put   bool
	last  uint64
	env   mail.Envelope // of the commit looked at
}

// Foreign is a result or abort from another node.
type Foreign struct {
	First  uint64
	Result record.Result // Finished alone for an abort
}

// step says what a record is.
type step struct {
	a     *arrival // a chunk of it or its commit
	first uint64
	m     *Message // the message of a commit; that of a chunk that takes the place of another
	index int      // of the chunk
}

// Plan checks records of a segment and says what to append. put is for those
// that come out of order; else what is here already is left out. Kinds are
// checked first, so that nothing is done of what cannot be done whole.
func (s *State) Plan(segment, epoch uint64, recs []record.Copy, put bool) (*Batch, error) {
	g := s.segments[segment]
	switch {
	case g == nil || !Replicated(segment):
		return nil, fmt.Errorf("spool: segment %d: %w", segment, record.ErrNoSegment)
	case epoch < g.Epoch:
		return nil, fmt.Errorf("spool: segment %d: epoch %d is over, %d holds: %w", segment, epoch, g.Epoch, record.ErrRefused)
	}
	for i := range recs {
		if k := recs[i].Kind; k != record.KindChunk && k != record.KindCommit && (put || k != record.KindResult && k != record.KindAbort) {
			return nil, fmt.Errorf("spool: segment %d, kind %d: %w", segment, k, record.ErrUnknownRecord)
		}
	}
	b := &Batch{s: s, g: g, put: put, last: g.Last}
	for i := range recs {
		if err := b.plan(&recs[i]); err != nil {
			b.Undo()
			return nil, fmt.Errorf("spool: segment %d, seq %d: %w: %w", segment, recs[i].Seq, record.ErrRefused, err)
		}
	}
	for i := range b.Records {
		b.Records[i].Segment, b.Records[i].Epoch = segment, epoch
	}
	return b, nil
}

func (b *Batch) plan(c *record.Copy) error {
	switch c.Kind {
	case record.KindResult:
		f := Foreign{First: c.Seq}
		if err := record.ParseResult(c.Payload(), &f.Result); err != nil {
			return err
		}
		if err := f.Result.Check(); err != nil {
			return err
		}
		b.Results = append(b.Results, f)
		return nil
	case record.KindAbort:
		b.Results = append(b.Results, Foreign{First: c.Seq, Result: record.Result{Finished: true}})
		return nil
	}
	switch {
	case c.Seq == 0 || c.Seq > math.MaxUint32:
		return fmt.Errorf("no such number")
	case !b.put && c.Seq <= b.last:
		return nil // here already
	case !b.put && b.g.Owned:
		return fmt.Errorf("it is this node that gives numbers in the segment")
	case b.g.EndSet && (c.Seq > b.g.End || !b.put):
		return fmt.Errorf("the segment ends at %d", b.g.End)
	case !b.put && c.Seq != b.last+1:
		return fmt.Errorf("there is nothing after %d", b.last)
	case b.put && !b.g.EndSet && c.Seq > b.g.Last:
		return fmt.Errorf("out of order in an open segment that has %d", b.g.Last)
	}
	st, err := b.chunk(c)
	if c.Kind == record.KindCommit {
		st, err = b.commit(c)
	}
	if err != nil {
		return err
	}
	b.last = max(b.last, c.Seq)
	if st.first != 0 {
		b.steps = append(b.steps, st)
		b.Records = append(b.Records, wal.Record{Header: wal.Header{Seq: c.Seq, Kind: wal.Kind(c.Kind)}, Data: c.Data})
	}
	return nil
}

// chunk plans a chunk record; a step without first is none.
func (b *Batch) chunk(c *record.Copy) (step, error) {
	if c.Kind != record.KindChunk {
		return step{}, nil
	}
	var head [record.ChunkHeaderLen]byte
	first, index, err := record.ParseChunkHeader(c.Head(head[:]))
	size := c.Size()
	switch {
	case err != nil:
		return step{}, err
	case first == 0 || first > c.Seq || (first == c.Seq) != (index == 0) || size > math.MaxInt32,
		index > 0 && size == record.ChunkHeaderLen, b.g.Waiting[first] != nil:
		return step{}, fmt.Errorf("chunk %d of message %d, %d octets", index, first, size)
	}
	st := step{first: first, index: int(index)}
	if st.m = b.g.find(first); st.m != nil {
		cs := st.m.chunks()
		if !b.put || st.index >= len(cs) || cs[st.index].Pos != 0 && cs[st.index].Len != uint32(size) {
			return step{}, fmt.Errorf("chunk %d is not that of message %d", index, first)
		}
		return st, nil
	}
	if st.a = b.g.arrivals[first]; st.a == nil {
		if index != 0 || len(b.g.arrivals) >= arrivalsMax {
			return step{}, fmt.Errorf("chunk %d of message %d, which has none, beside %d others", index, first, len(b.g.arrivals))
		}
		st.a = &arrival{}
		if b.g.arrivals == nil {
			b.g.arrivals = map[uint64]*arrival{}
		}
		b.g.arrivals[first] = st.a
	}
	n := len(st.a.chunks)
	switch {
	case b.put && st.index < n && st.a.seqs[st.index] == uint32(c.Seq):
		return step{}, nil // here already
	case st.a.done || st.index != n || n >= chunksMax || n > 0 && uint64(st.a.seqs[n-1]) >= c.Seq:
		return step{}, fmt.Errorf("chunk %d of message %d, which has %d", index, first, n)
	}
	st.a.chunks = append(st.a.chunks, Chunk{Len: uint32(size)})
	st.a.seqs = append(st.a.seqs, uint32(c.Seq))
	return st, nil
}

// commit plans a commit record.
func (b *Batch) commit(c *record.Copy) (step, error) {
	data := c.Payload()
	var rec record.Commit
	if err := record.ParseCommit(data, &rec, &b.env); err != nil {
		return step{}, err
	}
	if b.put && b.g.find(rec.First) != nil {
		return step{}, nil // here already
	}
	a := b.g.arrivals[rec.First]
	if a == nil || a.done || len(a.chunks) != 1+len(rec.More) || rec.Length > MaxSize ||
		uint64(a.seqs[len(a.seqs)-1]) >= c.Seq || len(b.env.Recipients) == 0 || len(b.env.Recipients) > MaxRecipients || b.env.ID.IsZero() {
		return step{}, fmt.Errorf("commit of message %d, which is not here whole", rec.First)
	}
	length := uint64(0)
	for i, chunk := range a.chunks {
		if i > 0 && uint64(a.seqs[i])-rec.First != uint64(rec.More[i-1]) {
			return step{}, fmt.Errorf("commit of message %d does not name its chunks", rec.First)
		}
		length += uint64(chunk.Len) - record.ChunkHeaderLen
	}
	if length != rec.Length {
		return step{}, fmt.Errorf("commit of message %d has %d octets, its chunks %d", rec.First, rec.Length, length)
	}
	m := &Message{
		id: b.env.ID, seg: b.g, commitLen: units(wal.RecordSize(len(data))),
		first: uint32(rec.First), size: uint32(rec.Length), n: uint16(len(b.env.Recipients)),
	}
	m.stamp(b.env.Arrived.UnixMilli(), c.Seq)
	a.done = true
	return step{a: a, first: rec.First, m: m}, nil
}

// Undo forgets what was planned.
func (b *Batch) Undo() {
	for _, st := range slices.Backward(b.steps) {
		switch {
		case st.a == nil:
		case st.m != nil:
			st.a.done = false
		default:
			n := len(st.a.chunks) - 1
			st.a.chunks, st.a.seqs = st.a.chunks[:n], st.a.seqs[:n]
		}
	}
	for first, a := range b.g.arrivals {
		if len(a.chunks) == 0 {
			delete(b.g.arrivals, first)
		}
	}
}

// Done brings the State up to the records, which lie where at says.
func (b *Batch) Done(at func(i int) wal.Pos) {
	for i, st := range b.steps {
		pos := at(i)
		switch {
		case st.a == nil:
			b.s.replace(st.m, st.index, Chunk{pos, b.Records[i].Len})
		case st.m == nil:
			st.a.chunks[st.index].Pos = pos
			b.s.Pend(pos)
		default:
			for _, c := range st.a.chunks {
				b.s.Unpend(c.Pos)
			}
			st.m.commit = pos
			st.m.place(st.a.chunks)
			delete(b.g.arrivals, st.first)
			b.s.Enter(st.m)
		}
	}
	if !b.put && b.last > b.g.Last {
		b.g.Advance(b.last, at(0).File())
	}
}

// replace notes that a chunk was written again elsewhere.
func (s *State) replace(m *Message, i int, c Chunk) {
	if old := m.chunks()[i]; old.Pos != 0 {
		s.books.Drop(old.Pos.File(), wal.RecordSize(int(old.Len)))
	}
	s.books.Add(c.Pos.File(), wal.RecordSize(int(c.Len)))
	if m.more != nil && m.more.chunks != nil {
		m.more.chunks[i].Len = c.Len
	}
	m.moveChunk(i, c.Pos)
}

// giveUp ends an arrival whose message will never come to be.
func (s *State) giveUp(g *Segment, first uint64) {
	if a := g.arrivals[first]; a != nil {
		for _, c := range a.chunks {
			s.Unpend(c.Pos)
		}
		delete(g.arrivals, first)
	}
}

// Of gives the message that a result or abort is about, or nil; an abort of
// one that was still arriving ends that, and one that waits for its copies is
// adopted.
func (s *State) Of(segment uint64, f *Foreign) *Message {
	g := s.segments[segment]
	if g == nil {
		return nil
	}
	if f.Result.Finished {
		s.giveUp(g, f.First)
	}
	m := g.find(f.First)
	if w := g.Waiting[f.First]; m == nil && w != nil && (f.Result.ID.IsZero() || f.Result.ID == w.id) {
		m = s.Adopt(g, f.First)
	}
	if m == nil || !f.Result.ID.IsZero() && f.Result.ID != m.id {
		return nil
	}
	return m
}
