// Package take plans what a member of a segment appends of the records that
// come from other nodes: it checks each against what is here, so that nothing
// a node sends can bring the log and the memory of it apart, and nothing is
// done of what cannot be done whole. Package spool, its only user, appends.
package take

import (
	"fmt"
	"math"
	"slices"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/wal"
)

// Batch are records of other nodes on their way into the log. New makes one.
// Then either Done or Undo is called, before anything else happens to the
// State.
type Batch struct {
	Records []wal.Record    // to be appended at once; may be empty
	Results []state.Foreign // to be united, one by one, after Done

	s     *state.State
	g     *state.Segment
	steps []step // one for each of Records
	put   bool
	last  uint64
	env   mail.Envelope // of the commit looked at
}

// step says what a record is.
type step struct {
	a     *state.Partial // a chunk of it or its commit
	first uint64
	m     *state.Message // the message of a commit; that of a chunk that takes the place of another
	index int            // of the chunk
}

// New checks records of a segment and says what to append. put is for those
// that come out of order; else what is here already is left out. Kinds are
// checked first, so that nothing is done of what cannot be done whole.
func New(s *state.State, segment, epoch uint64, recs []record.Copy, put bool) (*Batch, error) {
	g := s.Segment(segment)
	switch {
	case g == nil || !state.Replicated(segment):
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
		f := state.Foreign{First: c.Seq}
		if err := record.ParseResult(c.Payload(), &f.Result); err != nil {
			return err
		}
		if err := f.Result.Check(); err != nil {
			return err
		}
		b.Results = append(b.Results, f)
		return nil
	case record.KindAbort:
		b.Results = append(b.Results, state.Foreign{First: c.Seq, Result: record.Result{Finished: true}})
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
		b.g.Waiting[first] != nil:
		return step{}, fmt.Errorf("chunk %d of message %d, %d octets", index, first, size)
	}
	st := step{first: first, index: int(index)}
	if st.m = b.g.Find(first); st.m != nil {
		old, ok := b.s.Chunk(st.m, st.index)
		if !b.put || !ok || old.Pos != 0 && old.Len != uint32(size) {
			return step{}, fmt.Errorf("chunk %d is not that of message %d", index, first)
		}
		return st, nil
	}
	if st.a = b.g.Partials[first]; st.a == nil {
		if index != 0 || len(b.g.Partials) >= state.PartialsMax {
			return step{}, fmt.Errorf("chunk %d of message %d, which has none, beside %d others", index, first, len(b.g.Partials))
		}
		st.a = &state.Partial{}
		if b.g.Partials == nil {
			b.g.Partials = map[uint64]*state.Partial{}
		}
		b.g.Partials[first] = st.a
	}
	n := len(st.a.Chunks)
	switch {
	case b.put && st.index < n && st.a.Seqs[st.index] == uint32(c.Seq):
		return step{}, nil // here already
	case st.a.Done || st.index != n || n >= state.ChunksMax || n > 0 && uint64(st.a.Seqs[n-1]) >= c.Seq:
		return step{}, fmt.Errorf("chunk %d of message %d, which has %d", index, first, n)
	}
	st.a.Chunks = append(st.a.Chunks, state.Chunk{Len: uint32(size)})
	st.a.Seqs = append(st.a.Seqs, uint32(c.Seq))
	return st, nil
}

// commit plans a commit record.
func (b *Batch) commit(c *record.Copy) (step, error) {
	data := c.Payload()
	var rec record.Commit
	if err := record.ParseCommit(data, &rec, &b.env); err != nil {
		return step{}, err
	}
	if b.put && b.g.Find(rec.First) != nil {
		return step{}, nil // here already
	}
	a := b.g.Partials[rec.First]
	if a == nil || a.Done || len(a.Chunks) != 1+len(rec.More) || rec.Length > state.MaxSize ||
		uint64(a.Seqs[len(a.Seqs)-1]) >= c.Seq || len(b.env.Recipients) == 0 || len(b.env.Recipients) > state.MaxRecipients || b.env.ID.IsZero() {
		return step{}, fmt.Errorf("commit of message %d, which is not here whole", rec.First)
	}
	length := uint64(0)
	for i, chunk := range a.Chunks {
		if i > 0 && uint64(a.Seqs[i])-rec.First != uint64(rec.More[i-1]) {
			return step{}, fmt.Errorf("commit of message %d does not name its chunks", rec.First)
		}
		if chunk.Len == record.ChunkHeaderLen && len(a.Chunks) > 1 {
			return step{}, fmt.Errorf("chunk %d of message %d is empty: nobody could read it", i, rec.First)
		}
		length += uint64(chunk.Len) - record.ChunkHeaderLen
	}
	if length != rec.Length {
		return step{}, fmt.Errorf("commit of message %d has %d octets, its chunks %d", rec.First, rec.Length, length)
	}
	m := state.NewMessage(&b.env, &state.Arrival{
		Segment: b.g, First: rec.First, Seq: c.Seq, Size: rec.Length, CommitSize: wal.RecordSize(len(data)),
	})
	a.Done = true
	return step{a: a, first: rec.First, m: m}, nil
}

// Undo forgets what was planned.
func (b *Batch) Undo() {
	for _, st := range slices.Backward(b.steps) {
		switch {
		case st.a == nil:
		case st.m != nil:
			st.a.Done = false
		default:
			n := len(st.a.Chunks) - 1
			st.a.Chunks, st.a.Seqs = st.a.Chunks[:n], st.a.Seqs[:n]
		}
	}
	for first, a := range b.g.Partials {
		if len(a.Chunks) == 0 {
			delete(b.g.Partials, first)
		}
	}
}

// Done brings the State up to the records, which lie where at says.
func (b *Batch) Done(at func(i int) wal.Pos) {
	for i, st := range b.steps {
		pos := at(i)
		switch {
		case st.a == nil:
			b.s.Replace(st.m, st.index, state.Chunk{Pos: pos, Len: b.Records[i].Len})
		case st.m == nil:
			st.a.Chunks[st.index].Pos = pos
			b.s.Pend(pos)
		default:
			for _, c := range st.a.Chunks {
				b.s.Unpend(c.Pos)
			}
			st.m.Land(st.a.Chunks, pos)
			delete(b.g.Partials, st.first)
			b.s.Enter(st.m)
		}
	}
	if !b.put && b.last > b.g.Last {
		b.g.Advance(b.last, at(0).File())
	}
}
