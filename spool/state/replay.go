package state

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state/books"
	"github.com/clrelay/clrelay/spool/wal"
)

// Replay gathers what a log says, segment by segment. Nothing depends on the
// order of the records, because compaction and damage change it.
type Replay struct {
	segs   map[uint64]*found
	last   *found
	commit record.Commit
	result record.Result
	damage []*record.DamageError
	tombs  []books.Tomb
	place  func(wal.Pos) string
}

// NewReplay makes a replay; place names a record's place for a human.
func NewReplay(place func(wal.Pos) string) *Replay {
	return &Replay{segs: map[uint64]*found{}, place: place}
}

// found is what the log says about a segment.
type found struct {
	seg      *Segment
	msgs     []*Message // commits, older copies included
	more     map[*Message][]uint32
	chunks   []foundChunk
	results  []foundResult
	attempts []foundAttempt
	killers  []foundKiller
	orders   map[resultKey]record.Orders
	gone     wal.Pos // what lies no further was forgotten
}

type foundChunk struct {
	seq, len uint32
	pos      wal.Pos
}

type foundResult struct {
	first uint32
	index uint16
	record.Rcpt
}

// resultKey names what a result record says of one recipient.
type resultKey struct {
	pos  wal.Pos
	rcpt uint16
}

type foundAttempt struct {
	first uint32
	pos   wal.Pos
	size  int64
	*record.Attempt
}

type foundKiller struct {
	first uint32
	pos   wal.Pos
}

func (f *Replay) segment(pos wal.Pos, h wal.Header) *found {
	if f.last != nil && f.last.seg.ID == h.Segment {
		return f.last
	}
	g := f.segs[h.Segment]
	if g == nil {
		g = &found{seg: &Segment{View: record.View{ID: h.Segment}, from: pos.File()}, more: map[*Message][]uint32{}}
		if !Replicated(h.Segment) {
			g.seg.Epoch = h.Epoch
		}
		f.segs[h.Segment] = g
	}
	f.last = g
	return g
}

// Visit takes one record of the log; it is a wal.Visit. The only error is a
// kind of record that it does not know.
func (f *Replay) Visit(pos wal.Pos, h wal.Header, data []byte) error {
	g := f.segment(pos, h)
	var err error
	if k := uint8(h.Kind); k == record.KindChunk || k == record.KindCommit {
		g.seg.Last = max(g.seg.Last, h.Seq)
	}
	switch uint8(h.Kind) {
	case record.KindForget:
		err = f.forget(g, pos, data)
	case record.KindSegment:
		err = g.header(pos, h, data)
	case record.KindChunk:
		g.chunks = append(g.chunks, foundChunk{uint32(h.Seq), h.Len, pos})
	case record.KindCommit:
		err = f.message(g, pos, h.Seq, data)
	case record.KindAbort:
		g.killers = append(g.killers, foundKiller{uint32(h.Seq), pos})
	case record.KindAttempt:
		var a *record.Attempt
		if a, err = record.ParseAttempt(data); err == nil {
			g.attempts = append(g.attempts, foundAttempt{uint32(h.Seq), pos, wal.RecordSize(len(data)), a})
		}
	case record.KindResult:
		err = f.outcome(g, pos, h, data)
	default:
		return fmt.Errorf("spool: %s holds a record of kind %d, which this clrelay does not know: use the version that wrote it, or a newer one", f.place(pos), h.Kind)
	}
	if err != nil { // damage that the checksum does not see costs the record, too
		f.damage = append(f.damage, &record.DamageError{Place: f.place(pos), What: fmt.Sprintf("record of kind %d, segment %d, seq %d", h.Kind, h.Segment, h.Seq), Err: err})
	}
	return nil
}

func (g *found) header(pos wal.Pos, h wal.Header, data []byte) error {
	s, err := record.ParseSegment(data)
	if err != nil {
		return err
	}
	if h.Epoch < g.seg.Epoch || !Replicated(h.Segment) && s.State < g.seg.State {
		return nil
	}
	g.seg.View = record.View{ID: h.Segment, Epoch: h.Epoch, State: s.State, Owner: s.Owner, Members: s.Members, End: s.End, EndSet: s.EndSet}
	g.seg.told = s.LastSeq
	g.seg.header, g.seg.headerLen = pos, wal.RecordSize(len(data))
	return nil
}

func (f *Replay) message(g *found, pos wal.Pos, seq uint64, data []byte) error {
	skim, err := record.SkimCommit(data, &f.commit)
	if err != nil {
		return err
	}
	c := &f.commit
	if c.First > MaxSize || c.Length > MaxSize || skim.Recipients == 0 || skim.Recipients > MaxRecipients {
		return fmt.Errorf("message %s: first chunk %d, %d octets, %d recipients", skim.ID, c.First, c.Length, skim.Recipients)
	}
	m := &Message{
		id: skim.ID, seg: g.seg, commit: pos, commitLen: units(wal.RecordSize(len(data))),
		first: uint32(c.First), size: uint32(c.Length), n: uint16(skim.Recipients),
	}
	m.stamp(skim.ArrivedMS, seq)
	if len(c.More) > 0 {
		g.more[m] = slices.Clone(c.More)
	}
	if m.n > 1 {
		m.rich().rcpts = make([]record.Rcpt, m.n)
	}
	m.holdUntil(skim.HoldMS)
	g.msgs = append(g.msgs, m)
	return nil
}

func (f *Replay) outcome(g *found, pos wal.Pos, h wal.Header, data []byte) error {
	if err := record.SkimResult(data, &f.result); err != nil {
		return err
	}
	if f.result.Finished {
		g.killers = append(g.killers, foundKiller{uint32(h.Seq), pos})
		return nil
	}
	share := record.ShareOf(wal.RecordSize(len(data)), len(f.result.Settled))
	for i := range f.result.Settled {
		s := &f.result.Settled[i]
		r := foundResult{first: uint32(h.Seq), index: uint16(s.Recipient)}
		r.Set(s)
		r.Put(uint64(pos))
		r.Share = share
		g.results = append(g.results, r)
		if s.Orders != (record.Orders{}) {
			if g.orders == nil {
				g.orders = map[resultKey]record.Orders{}
			}
			g.orders[resultKey{pos, r.index}] = s.Orders
		}
	}
	return nil
}

// Recovered is what Load found.
type Recovered struct {
	Recipients int    // without a final result
	LastID     uint64 // the highest id of a segment of the spool's own in the log
	Damage     []*record.DamageError
	unsure     map[*Message][]bool // recipients whose last delivery has no known end
}

// Load fills an empty state with what is unfinished in the log. damage is what
// the log itself found.
func (s *State) Load(f *Replay, damage []*wal.DamageError) *Recovered {
	rec := &Recovered{Damage: f.damage, unsure: map[*Message][]bool{}}
	for _, id := range slices.Sorted(maps.Keys(f.segs)) {
		if !Replicated(id) {
			rec.LastID = id
		}
		s.restore(f.segs[id], rec)
		delete(f.segs, id) // frees the memory early
	}
	for _, t := range f.tombs {
		s.tombs.Add(t)
	}
	for _, d := range damage {
		rec.Damage = append(rec.Damage, &record.DamageError{Place: fmt.Sprintf("%s:%d", d.Path, d.Offset), What: d.What, Err: d})
		if d.Header != nil {
			s.suspect(d.Header, rec.unsure)
		}
	}
	return rec
}

// restore puts a segment's unfinished messages into the index.
func (s *State) restore(g *found, rec *Recovered) {
	if g.prune(); !g.alive() {
		return
	}
	g.seg.Owned = !Replicated(g.seg.ID) || s.OwnAll
	g.seg.behind = g.seg.header == 0
	msgs := s.newest(g)
	find := func(first uint32) *Message {
		i, ok := slices.BinarySearchFunc(msgs, first, func(m *Message, first uint32) int { return cmp.Compare(m.first, first) })
		if !ok {
			return nil
		}
		return msgs[i]
	}
	for _, k := range g.killers {
		if m := find(k.first); m != nil {
			s.books.Kill(k.pos.File(), m.commit.File())
			m.size = 0
			m.chunk = dead
		}
	}
	for i := range g.results {
		if m := find(g.results[i].first); m != nil && m.chunk != dead {
			m.take(&g.results[i])
		}
	}
	for i := range g.attempts {
		if m := find(g.attempts[i].first); m != nil && m.chunk != dead {
			s.resume(m, &g.attempts[i], rec.unsure)
		}
	}
	live := msgs[:0]
	for _, m := range msgs {
		if m.chunk != dead {
			live = append(live, m)
		}
	}
	if len(live) == 0 && !Replicated(g.seg.ID) {
		return
	}
	g.locate(live, rec)
	g.seg.msgs = make([]*Message, 0, len(live))
	s.segments[g.seg.ID] = g.seg
	if g.seg.header != 0 {
		s.books.Add(g.seg.header.File(), g.seg.headerLen)
	}
	for _, m := range live {
		s.Enter(m)
		rcpts := m.rcpts()
		for i := range rcpts {
			if wal.Pos(rcpts[i].At()) != 0 {
				s.books.Add(wal.Pos(rcpts[i].At()).File(), rcpts[i].Bytes())
				if o, ok := g.orders[resultKey{wal.Pos(rcpts[i].At()), uint16(i)}]; ok {
					s.orders.set(m, i, o)
				}
			}
			if m.seg.Owned && !rcpts[i].State.Final() {
				rec.Recipients++
			}
		}
	}
}

// dead marks, during recovery, the chunk of a message that is finished.
const dead = ^wal.Pos(0)

// newest sorts a segment's messages by their first chunk and drops all but
// the newest copy of each; the files that hold the others are stale.
func (s *State) newest(g *found) []*Message {
	byPlace := func(a, b *Message) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.commit, b.commit))
	}
	if !slices.IsSortedFunc(g.msgs, byPlace) {
		slices.SortFunc(g.msgs, byPlace)
	}
	out := g.msgs[:0]
	for _, m := range g.msgs {
		if n := len(out); n > 0 && out[n-1].first == m.first {
			if old := out[n-1].commit.File(); old != m.commit.File() {
				s.books.Stale(old)
			}
			out[n-1] = m
			continue
		}
		out = append(out, m)
	}
	return out
}

// take applies a result; of two copies of the same one it keeps the newer.
func (m *Message) take(r *foundResult) {
	rcpts := m.rcpts()
	if int(r.index) >= len(rcpts) {
		return // of a message that is not this one: damage
	}
	at := &rcpts[r.index]
	switch {
	case wal.Pos(at.At()) == 0, r.Supersedes(at), !at.Supersedes(&r.Rcpt) && wal.Pos(r.Rcpt.At()) > wal.Pos(at.At()):
		*at = r.Rcpt
	}
}

// resume notes an attempt that has no result. Its record stays live until
// there is one, so that every start until then counts it: better twice than
// not at all, should this process end before anybody has seen its figures.
func (s *State) resume(m *Message, a *foundAttempt, unsure map[*Message][]bool) {
	var rcpts []int
	for i, index := range a.Recipients {
		if int(index) >= int(m.n) {
			continue
		}
		if r := m.rcpts()[index]; a.Versions[i] > r.Version && !r.State.Final() {
			rcpts = append(rcpts, int(index))
			m.doubt(int(index), unsure)
		}
	}
	if len(rcpts) > 0 {
		s.starts.Add(m, a.pos, a.size, rcpts)
	}
}

func (m *Message) doubt(rcpt int, unsure map[*Message][]bool) {
	if unsure[m] == nil {
		unsure[m] = make([]bool, m.n)
	}
	unsure[m][rcpt] = true
}

// locate finds the chunks of the live messages.
func (g *found) locate(live []*Message, rec *Recovered) {
	byPlace := func(a, b foundChunk) int { return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.pos, b.pos)) }
	if !slices.IsSortedFunc(g.chunks, byPlace) {
		slices.SortFunc(g.chunks, byPlace)
	}
	find := func(seq uint32) Chunk {
		// The last one with that seq: the newest copy.
		i, _ := slices.BinarySearchFunc(g.chunks, seq, func(c foundChunk, seq uint32) int {
			if c.seq <= seq {
				return -1
			}
			return 1
		})
		if i == 0 || g.chunks[i-1].seq != seq {
			return Chunk{}
		}
		return Chunk{g.chunks[i-1].pos, g.chunks[i-1].len}
	}
	for _, m := range live {
		chunks := make([]Chunk, 1, 1+len(g.more[m]))
		chunks[0] = find(m.first)
		for _, more := range g.more[m] {
			chunks = append(chunks, find(m.first+more))
		}
		if i := slices.IndexFunc(chunks, func(c Chunk) bool { return c.Pos == 0 }); i >= 0 {
			rec.Damage = append(rec.Damage, &record.DamageError{
				Place: fmt.Sprintf("segment %d, message at seq %d", g.seg.ID, m.first),
				What:  fmt.Sprintf("chunk %d of %d of message %s is missing", i+1, len(chunks), m.id),
			})
		}
		m.place(chunks)
	}
}

// suspect treats the message of a damaged result as if the result had been
// there: nobody knows what it said.
func (s *State) suspect(h *wal.Header, unsure map[*Message][]bool) {
	g := s.segments[h.Segment]
	if k := uint8(h.Kind); g == nil || k != record.KindResult && k != record.KindAttempt {
		return
	}
	m := g.find(h.Seq)
	if m == nil {
		return
	}
	for i := range m.rcpts() {
		if !m.rcpts()[i].State.Final() {
			m.doubt(i, unsure)
		}
	}
}

// PossibleDuplicates counts the recipients whose last delivery may have
// succeeded without a word in the log: those with an attempt and no result of
// it, and, if what was not synced may be lost, all whose time had come by now.
func (s *State) PossibleDuplicates(rec *Recovered, lost bool, now time.Time) (n int) {
	for m, rcpts := range rec.unsure {
		if !m.seg.Owned {
			continue // Claim counts it
		}
		for _, doubt := range rcpts {
			if doubt {
				n++
			}
		}
	}
	if !lost {
		return n
	}
	sec := record.Seconds(now.UnixMilli())
	for _, g := range s.segments {
		if !g.Owned {
			continue
		}
		for _, m := range g.msgs {
			for i, r := range m.rcpts() {
				if r.Due(sec) && (rec.unsure[m] == nil || !rec.unsure[m][i]) {
					n++
				}
			}
		}
	}
	return n
}

// Leftovers gives what a recovery has to put in order: messages with a final
// result for each recipient and no record that says so, and segments that were
// open.
func (s *State) Leftovers() (done []*Message, open []*Segment) {
	for _, g := range s.segments {
		for _, m := range g.msgs {
			if m.left() == 0 {
				done = append(done, m)
			}
		}
		if !Replicated(g.ID) && (g.State != record.SegmentSealed || g.header == 0) {
			open = append(open, g)
		}
	}
	return done, open
}
