package content

import (
	"errors"
	"fmt"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/wal"
)

// Inventory tells what is here, unfinished, of a segment.
func (s *Source) Inventory(segment uint64) (record.Inventory, error) {
	s.Mu.Lock()
	g, err := s.State.Shared(segment)
	if err != nil {
		s.Mu.Unlock()
		return record.Inventory{}, err
	}
	inv, msgs := s.State.Inventory(g)
	s.Mu.Unlock()
	live := inv.Live
	inv.Live = make([]record.LiveMessage, 0, len(live))
	for i, l := range live {
		if i >= len(msgs) {
			inv.Live = append(inv.Live, l)
			continue
		}
		if inv.Live, err = s.results(inv.Live, l, msgs[i]); err != nil {
			return record.Inventory{}, fmt.Errorf("spool: inventory of segment %d: message %s: %w", segment, msgs[i].ID(), err)
		}
	}
	inv.Sort()
	return inv, nil
}

// results appends l with the results of its message, in parts if they are
// many. A result that cannot be read counts as none: nothing is lost by it
// but, maybe, the knowledge that the message need not be sent.
func (s *Source) results(live []record.LiveMessage, l record.LiveMessage, m *state.Message) ([]record.LiveMessage, error) {
	s.Mu.Lock()
	at := s.State.Standings(m, nil)
	s.Mu.Unlock()
	rec := record.Result{ID: m.ID()}
	size := 0
	flush := func() {
		if l.Results = nil; len(rec.Settled) > 0 {
			l.Results = record.AppendResult(nil, &rec)
		}
		live = append(live, l)
		rec.Settled, size = rec.Settled[:0], 0
	}
	err := s.eachResult(m, at, func(o *record.Settled) {
		if size += len(o.Reply.Text) + len(o.Remote) + len(o.Orders.Route) + len(o.Orders.Rule) + record.SettledMax; size > record.ResultsMax {
			flush()
		}
		rec.Settled = append(rec.Settled, *o)
	})
	damage := (*record.DamageError)(nil)
	if err != nil && !errors.Is(err, record.ErrFinished) && !errors.As(err, &damage) {
		return live, err
	}
	flush()
	return live, nil
}

// Read gives the chunks and the commit of an unfinished message one by one,
// in order, as Put takes them. The data are valid during the call of give
// alone; there is never more than one chunk in memory. ErrFinished says that
// the message is finished, or was never here.
func (s *Source) Read(segment, first uint64, give func(record.Copy) error) error {
	s.Mu.Lock()
	m := s.State.At(segment, first)
	chunks := 0
	if m != nil {
		chunks = s.State.Chunks(m)
	}
	s.Mu.Unlock()
	if m == nil {
		return fmt.Errorf("spool: message %d of segment %d: %w", first, segment, record.ErrFinished)
	}
	var buf []byte
	for i := range chunks + 1 {
		where := func() wal.Pos { return s.State.Commit(m) }
		size, kind := hint, record.KindCommit
		s.Mu.Lock()
		if i < chunks {
			c, _ := s.State.Chunk(m, i)
			size, kind = int(c.Len), record.KindChunk
			where = func() wal.Pos { c, _ := s.State.Chunk(m, i); return c.Pos }
		}
		pos, alive := where(), s.State.Commit(m) != 0
		s.Mu.Unlock()
		if need := size + wal.HeaderSize; cap(buf) < need {
			buf = make([]byte, need)
		}
		if pos == 0 && alive {
			return &record.DamageError{Place: fmt.Sprintf("segment %d", segment), What: fmt.Sprintf("chunk %d of message %s is missing", i+1, m.ID())}
		}
		h, data, err := s.read(pos, where, size, buf)
		if err == nil {
			err = give(record.Copy{Seq: h.Seq, Kind: kind, Data: [][]byte{data}})
		}
		if err != nil {
			return fmt.Errorf("spool: copying message %s: %w", m.ID(), err)
		}
	}
	return nil
}
