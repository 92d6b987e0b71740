package spool_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/wal"
)

const theSegment = 1<<63 | 1<<24 | 1

// cluster is a Placement whose answers the test gives.
type cluster struct {
	segments []uint64 // what Pick gives, the last one again and again
	appended chan []spool.Copy
	answer   chan error
	settled  []spool.Copy
	arrived  []uint64
}

func newCluster(segments ...uint64) *cluster {
	return &cluster{segments: segments, appended: make(chan []spool.Copy, 100), answer: make(chan error, 100)}
}

func (c *cluster) Pick() (uint64, uint64, error) {
	if len(c.segments) == 0 {
		return 0, 0, mail.NewReply(451, "4.3.2", "no segment")
	}
	id := c.segments[0]
	if len(c.segments) > 1 {
		c.segments = c.segments[1:]
	}
	return id, 1, nil
}

type answer chan error

func (a answer) Wait() error { return <-a }

func (c *cluster) Append(recs []wal.Record, _ *wal.Commit) spool.Ticket {
	c.appended <- travel(recs)
	return answer(c.answer)
}

func (c *cluster) Settled(rec wal.Record, _ *wal.Commit) spool.Ticket {
	c.settled = append(c.settled, travel([]wal.Record{rec})...)
	return answer(closed())
}

func (c *cluster) Arrived(segment uint64) { c.arrived = append(c.arrived, segment) }

func closed() chan error {
	ch := make(chan error)
	close(ch)
	return ch
}

// travel copies records as the wire does.
func travel(recs []wal.Record) (out []spool.Copy) {
	for _, r := range recs {
		c := spool.Copy{Seq: r.Seq, Kind: uint8(r.Kind)}
		for _, p := range r.Data {
			c.Data = append(c.Data, bytes.Clone(p))
		}
		out = append(out, c)
	}
	return out
}

func set(t testing.TB, s *spool.Spool, v spool.Segment) {
	t.Helper()
	if c, err := s.SetSegment(v); err != nil || c.WaitDurable() != nil {
		t.Fatal(err)
	}
}

func openSegment(s *spool.Spool, id uint64) spool.Segment {
	self := record.Member{Node: "mx1", StoreID: s.StoreID()}
	return spool.Segment{ID: id, Epoch: 1, State: record.SegmentOpen, Owner: self, Members: []record.Member{self}}
}

// TestPlacement: Accept ends when all copies are there; whatever else a
// ticket says, the message is void, here and, by an abort, elsewhere.
func TestPlacement(t *testing.T) {
	mem := vfs.NewMem()
	p := newCluster(theSegment)
	o := options(mem)
	o.Placement = p
	s, _ := open(t, o)
	set(t, s, openSegment(s, theSegment))
	gone := errors.New("member is gone")
	for _, want := range []error{nil, gone} {
		done := make(chan error)
		go func() {
			_, err := s.Accept(context.Background(), envelope(1), bytes.NewReader(content(1, 5000)))
			done <- err
		}()
		if recs := <-p.appended; len(recs) != 2 {
			t.Errorf("%d records, want chunk and commit", len(recs))
		}
		if inv, err := s.Inventory(theSegment); err != nil || len(inv.Live) != int(s.Stats().Accepted)+1 {
			t.Errorf("a message on its way is not in the inventory: %+v %v", inv, err)
		}
		if st := s.Stats(); st.Accepted > 1 || want == nil && st.Accepted > 0 {
			t.Errorf("accepted before the copies are there: %+v", st)
		}
		p.answer <- want
		err := <-done
		if r := (*mail.Reply)(nil); want != nil && (!errors.As(err, &r) || r.Code != 451 || !errors.Is(err, want)) || want == nil && err != nil {
			t.Errorf("got %v, the copy says %v", err, want)
		}
	}
	if len(p.settled) != 1 || p.settled[0].Kind != record.KindAbort || p.settled[0].Seq != 3 || len(p.arrived) != 2 {
		t.Errorf("the others were told %+v, and %d have arrived", p.settled, len(p.arrived))
	}
	if st := s.Stats(); st.Messages != 1 {
		t.Errorf("%+v", st)
	}
	closeSpool(t, s)
	s, rec := open(t, o)
	if inv, err := s.Inventory(theSegment); err != nil || len(inv.Live) != 1 || rec.Messages != 0 {
		t.Errorf("%+v %+v %v", rec, inv, err)
	}
	closeSpool(t, s)
}

// TestNoPlace: where no segment is to be had, the client hears what Pick says;
// one that is not there, or never holds, is not tried for ever.
func TestNoPlace(t *testing.T) {
	for _, p := range []*cluster{newCluster(), newCluster(theSegment)} {
		o := options(vfs.NewMem())
		o.Placement = p
		s, _ := open(t, o)
		_, err := s.Accept(context.Background(), envelope(1), bytes.NewReader(nil))
		if r := (*mail.Reply)(nil); !errors.As(err, &r) || r.Code != 451 {
			t.Errorf("%v", err)
		}
		if len(p.arrived) > 20 || len(p.segments) > 0 && len(p.arrived) == 0 {
			t.Errorf("%d tries", len(p.arrived))
		}
		closeSpool(t, s)
	}
}

// TestMove: a long message whose segment ends goes on in another one, whole,
// in spite of ends there.
func TestMove(t *testing.T) {
	p := newCluster(theSegment, theSegment+1, theSegment+2)
	o := options(vfs.NewMem())
	o.Placement = p
	s, _ := open(t, o)
	for i := range uint64(3) {
		set(t, s, openSegment(s, theSegment+i))
	}
	// The first chunk is fine, the second one moves; in the new segment, what
	// is written again moves once more.
	for _, err := range []error{nil, spool.ErrMoved, spool.ErrMoved} {
		p.answer <- err
	}
	for range 50 {
		p.answer <- nil
	}
	body := content(3, 500_000)
	m := accept(t, s, envelope(2), body)
	wantContent(t, s, m, body)
	inv, err := s.Inventory(theSegment + 2)
	if err != nil || len(inv.Live) != 1 || len(p.arrived) != 3 {
		t.Errorf("%+v %v, arrived: %x", inv, err, p.arrived)
	}
	for i := range uint64(2) {
		if inv, err := s.Inventory(theSegment + i); err != nil || len(inv.Live) != 0 {
			t.Errorf("segment %d: %+v %v", i, inv, err)
		}
	}
	closeSpool(t, s)
}

// TestLostWhileWaiting: the segment goes to another node while a message waits
// for its copies. The client hears 451, and the copy here is one as any other.
func TestLostWhileWaiting(t *testing.T) {
	for _, above := range []bool{false, true} {
		p := newCluster(theSegment)
		o := options(vfs.NewMem())
		o.Placement = p
		s, _ := open(t, o)
		v := openSegment(s, theSegment)
		set(t, s, v)
		done := make(chan error)
		go func() {
			_, err := s.Accept(context.Background(), envelope(1), bytes.NewReader(content(1, 5000)))
			done <- err
		}()
		<-p.appended
		v.Epoch, v.Owner.Node, v.State, v.End, v.EndSet = 2, "mx2", record.SegmentSealed, 2, true
		if above {
			v.End = 0
		}
		if err := s.Disclaim(theSegment); err != nil {
			t.Fatal(err)
		}
		set(t, s, v)
		p.answer <- errors.New("lost")
		if r := (*mail.Reply)(nil); !errors.As(<-done, &r) || r.Code != 451 {
			t.Errorf("%v", r)
		}
		inv, err := s.Inventory(theSegment)
		if err != nil || above != (len(inv.Live) == 0) {
			t.Errorf("ends below: %t, %+v %v", above, inv, err)
		}
		if len(p.settled) > 1 || !above && len(p.settled) > 0 {
			t.Errorf("%+v", p.settled)
		}
		closeSpool(t, s)
	}
}

// taken gives a spool that has taken a message of n octets and two recipients
// as a member.
func taken(t *testing.T, n int) (*spool.Spool, []spool.Copy) {
	t.Helper()
	p := newCluster(theSegment)
	o := options(vfs.NewMem())
	o.Placement = p
	from, _ := open(t, o)
	set(t, from, openSegment(from, theSegment))
	for range 20 {
		p.answer <- nil
	}
	accept(t, from, envelope(2), content(9, n))
	closeSpool(t, from)
	close(p.appended)
	o = options(vfs.NewMem())
	o.Node, o.Placement = "mx2", newCluster()
	s, _ := open(t, o)
	v := openSegment(from, theSegment)
	set(t, s, v)
	var all []spool.Copy
	for recs := range p.appended {
		all = append(all, recs...)
	}
	if c, err := s.Take(theSegment, 1, all); err != nil || c.WaitDurable() != nil {
		t.Fatal(err)
	}
	return s, all
}

// TestOwnership: a copy is for the queue between Claim and Disclaim, and the
// ledger balances. Whose time had come is counted at a takeover.
func TestOwnership(t *testing.T) {
	s, _ := taken(t, 40_000)
	if st := s.Stats(); st.Messages != 0 || st.Accepted != 0 {
		t.Errorf("%+v", st)
	}
	var m *spool.Message
	if err := s.Claim(theSegment, true, func(got *spool.Message, env *mail.Envelope, states []spool.RecipientState) {
		if m = got; len(env.Recipients) != 2 || len(states) != 2 {
			t.Errorf("%+v %+v", env, states)
		}
	}); err != nil {
		t.Fatal(err)
	}
	wantContent(t, s, m, content(9, 40_000))
	if err := s.Attempt(m, []int{0}).Wait(); err != nil {
		t.Fatal(err)
	}
	if err := s.SettleDurable(m, []spool.Result{delivered(0)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Disclaim(theSegment); err != nil {
		t.Fatal(err)
	}
	if err := s.Settle(m, []spool.Result{delivered(1)}); !errors.Is(err, spool.ErrNotOwner) {
		t.Errorf("settling: %v", err)
	}
	if err := s.Attempt(m, []int{1}).Wait(); !errors.Is(err, spool.ErrNotOwner) {
		t.Errorf("attempting: %v", err)
	}
	if _, ok := s.Find(m.ID()); ok {
		t.Error("it is still found")
	}
	if st := s.Stats(); st.TakenOver != 1 || st.HandedOver != 1 || st.Finished != 0 || st.Messages != 0 {
		t.Errorf("%+v", st)
	}
	n := 0
	if err := s.Claim(theSegment, false, func(_ *spool.Message, _ *mail.Envelope, states []spool.RecipientState) {
		if n++; states[0].State != mail.StateDelivered {
			t.Errorf("%+v", states)
		}
	}); err != nil || n != 1 {
		t.Errorf("%d messages, %v", n, err)
	}
	closeSpool(t, s)
}

// TestUnknownRecord: of a call with a kind that nobody knows, nothing is done.
func TestUnknownRecord(t *testing.T) {
	s, all := taken(t, 10)
	before, _ := s.Inventory(theSegment)
	first := binary.LittleEndian.AppendUint64(nil, 3)
	recs := []spool.Copy{{Seq: 3, Kind: record.KindChunk, Data: [][]byte{first, {0, 0, 0, 0}}}, {Seq: 4, Kind: 99}}
	if _, err := s.Take(theSegment, 1, recs); !errors.Is(err, spool.ErrUnknownRecord) {
		t.Errorf("%v", err)
	}
	if after, _ := s.Inventory(theSegment); after.Last != before.Last {
		t.Errorf("%+v", after)
	}
	for name, err := range map[string]error{
		"old epoch": second(s.Take(theSegment, 0, all)), "other segment": second(s.Take(theSegment+1, 1, all)), "local": second(s.Take(1, 1, all)),
	} {
		if !errors.Is(err, spool.ErrRefused) && !errors.Is(err, spool.ErrNoSegment) {
			t.Errorf("%s: %v", name, err)
		}
	}
	closeSpool(t, s)
}

func second[T any](_ T, err error) error { return err }

// TestResultsInAnyOrder: two stores that saw different results of the same
// messages are the same after each has merged the other's inventory, in either
// order, and a third time changes nothing.
func TestResultsInAnyOrder(t *testing.T) {
	a, all := taken(t, 100)
	o := options(vfs.NewMem())
	o.Node, o.Placement = "mx3", newCluster()
	b, _ := open(t, o)
	set(t, b, openSegment(a, theSegment))
	if _, err := b.Take(theSegment, 1, all); err != nil {
		t.Fatal(err)
	}
	inv, err := a.Inventory(theSegment)
	if err != nil {
		t.Fatal(err)
	}
	result := func(i int, version uint32, st mail.State, next int64) spool.Copy {
		var c record.Commit
		var env mail.Envelope
		if err := record.ParseCommit(all[len(all)-1].Payload(), &c, &env); err != nil {
			t.Fatal(err)
		}
		return spool.Copy{Seq: inv.Live[0].First, Kind: record.KindResult, Data: [][]byte{record.AppendResult(nil, &record.Result{ID: env.ID, Victim: 77, Settled: []record.Settled{
			{Recipient: uint32(i), Version: version, State: st, NextMS: next * 1000, Reply: mail.Reply{Code: 250, Text: "ok"}},
		}})}}
	}
	for _, r := range []struct {
		s *spool.Spool
		c spool.Copy
	}{
		{a, result(0, 2, mail.StateDeferred, 5000)}, {b, result(0, 2, mail.StateDeferred, 6000)},
		{a, result(1, 9, mail.StateFailed, 0)}, {b, result(1, 3, mail.StateDelivered, 0)}, {b, result(0, 1, mail.StateHeld, 0)},
	} {
		if _, err := r.s.Take(theSegment, 1, []spool.Copy{r.c, r.c}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		ia, _ := a.Inventory(theSegment)
		ib, _ := b.Inventory(theSegment)
		for s, inv := range map[*spool.Spool]spool.Inventory{a: ib, b: ia} {
			if missing, _, err := s.Merge(theSegment, inv, true); err != nil || len(missing) > 0 {
				t.Fatal(missing, err)
			}
		}
	}
	for name, s := range map[string]*spool.Spool{"a": a, "b": b} {
		if err := s.Claim(theSegment, false, func(_ *spool.Message, _ *mail.Envelope, st []spool.RecipientState) {
			if st[0].State != mail.StateDeferred || !st[0].Next.Equal(time.Unix(6000, 0)) || st[1].State != mail.StateDelivered {
				t.Errorf("%s: %+v", name, st)
			}
		}); err != nil {
			t.Fatal(err)
		}
		closeSpool(t, s)
	}
}

// TestSuspectMerge: what is missing in the inventory of a suspect store, or
// above its last number, is not finished here.
func TestSuspectMerge(t *testing.T) {
	s, _ := taken(t, 100)
	for i, inv := range []spool.Inventory{
		{Segment: theSegment, Last: 2, Suspect: true, Upto: record.AllFirsts},
		{Segment: theSegment, Last: 1, Upto: record.AllFirsts},
		{Segment: theSegment, Last: 2, From: 2, Upto: record.AllFirsts},
		{Segment: theSegment, Last: 2, Upto: record.AllFirsts},
	} {
		if _, _, err := s.Merge(theSegment, inv, true); err != nil {
			t.Fatal(err)
		}
		if got, _ := s.Inventory(theSegment); (len(got.Live) == 1) != (i < 3) {
			t.Errorf("after %d: %+v", i, got)
		}
	}
	closeSpool(t, s)
}

// FuzzTake: whatever another node sends, nothing panics, and the spool opens
// again without damage.
func FuzzTake(f *testing.F) {
	f.Add(uint8(0), uint64(1), uint8(2), []byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00hello"), []byte{})
	f.Add(uint8(1), uint64(1), uint8(6), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, how uint8, seq uint64, kind uint8, one, two []byte) {
		mem := vfs.NewMem()
		o := options(mem)
		o.Placement = newCluster()
		s, _ := open(t, o)
		v := openSegment(s, theSegment)
		v.Owner.Node = "mx2"
		if how&1 != 0 {
			v.State, v.End, v.EndSet = record.SegmentSealed, 100, true
		}
		set(t, s, v)
		env := envelope(1)
		env.ID = mail.ID{1}
		body := append(record.AppendChunkHeader(nil, seq, 0), one...)
		recs := []spool.Copy{
			{Seq: seq, Kind: record.KindChunk, Data: [][]byte{body}},
			{Seq: seq + 1, Kind: kind, Data: [][]byte{one, two}},
			{Seq: seq + 2, Kind: record.KindCommit, Data: [][]byte{record.AppendCommit(nil, &record.Commit{First: seq, Length: uint64(len(one))}, env)}},
		}
		do := s.Take
		if how&2 != 0 {
			do = s.Put
		}
		_, _ = do(theSegment, 1, recs)
		_, _ = do(theSegment, 1, recs[1:2])
		_, _ = do(theSegment, 1, append(recs[:1:1], recs[2]))
		if inv, err := record.ParseInventory(two); err == nil {
			_, _, _ = s.Merge(theSegment, inv, true)
		}
		if err := s.Claim(theSegment, true, func(*spool.Message, *mail.Envelope, []spool.RecipientState) {}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Inventory(theSegment); err != nil {
			t.Fatal(err)
		}
		closeSpool(t, s)
		s, rec := open(t, o)
		if len(rec.Damage) > 0 {
			t.Fatal(rec.Damage[0])
		}
		closeSpool(t, s)
	})
}
