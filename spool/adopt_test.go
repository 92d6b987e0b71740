package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
	"github.com/clrelay/clrelay/spool/record"
)

// TestResultsWhileWaiting: a message still waits here for its copies when
// another node has taken its segment over and settles it. What that node says
// holds, before and after this one has given the segment up, whatever the
// message's ticket says in the end, and after a restart.
func TestResultsWhileWaiting(t *testing.T) {
	lost := errors.New("lost")
	for _, size := range []int{5000, 300_000} {
		for _, early := range []bool{false, true} { // before the segment is given up here
			for _, merge := range []bool{false, true} {
				for _, all := range []bool{false, true} {
					for _, answer := range []error{nil, lost} {
						name := fmt.Sprintf("%d octets, early %t, merge %t, all %t, %v", size, early, merge, all, answer)
						t.Run(name, func(t *testing.T) { resultsWhileWaiting(t, size, early, merge, all, answer) })
					}
				}
			}
		}
	}
}

func resultsWhileWaiting(t *testing.T, size int, early, merge, all bool, answer error) {
	p := newCluster(theSegment)
	told := 0
	o := options(vfs.NewMem())
	o.Placement = p
	o.Accepted = func(*spool.Message, *mail.Envelope) { told++ }
	s, _ := open(t, o)
	v := openSegment(s, theSegment)
	set(t, s, v)
	env := envelope(2)
	done := make(chan error)
	go func() {
		_, err := s.Accept(context.Background(), env, bytes.NewReader(content(1, size)))
		done <- err
	}()
	var last spool.Copy
	for last.Kind != record.KindCommit {
		recs := <-p.appended
		if last = recs[len(recs)-1]; last.Kind != record.KindCommit {
			p.answer <- nil
		}
	}
	giveUp := func() {
		if err := s.Disclaim(theSegment); err != nil {
			t.Fatal(err)
		}
	}
	if v.Epoch, v.Owner.Node, v.State, v.End, v.EndSet = 2, "mx2", record.SegmentSealed, last.Seq, true; !early {
		giveUp()
	}
	set(t, s, v)
	res := record.Result{ID: env.ID, Settled: []record.Settled{{Recipient: 0, Version: 1, State: mail.StateDelivered}}}
	if all {
		res.Settled = append(res.Settled, record.Settled{Recipient: 1, Version: 1, State: mail.StateFailed})
	}
	data := record.AppendResult(nil, &res)
	var err error
	switch {
	case merge && all:
		_, _, err = s.Merge(theSegment, spool.Inventory{Segment: theSegment, Last: last.Seq, Upto: record.AllFirsts}, true)
	case merge:
		inv := spool.Inventory{Segment: theSegment, Last: last.Seq, Upto: record.AllFirsts, Live: []spool.LiveMessage{{First: 1, Commit: last.Seq, Results: data}}}
		_, _, err = s.Merge(theSegment, inv, true)
	default:
		_, err = s.Take(theSegment, 2, []spool.Copy{{Seq: 1, Kind: record.KindResult, Data: [][]byte{data}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		inv, err := s.Inventory(theSegment)
		if err != nil || all != (len(inv.Live) == 0) || !all && len(inv.Live[0].Results) == 0 {
			t.Errorf("%+v %v", inv, err)
		}
	}
	check()
	if early {
		giveUp()
	}
	p.answer <- answer
	if err := <-done; (answer == nil) != (err == nil) {
		t.Error(err)
	}
	check()
	st := s.Stats()
	if st.Recovered+st.Accepted+st.TakenOver != st.Finished+st.HandedOver || st.Messages != 0 || told != 0 {
		t.Errorf("the queue was told of %d; %+v", told, st)
	}
	if !all {
		var states []spool.RecipientState
		if err := s.Claim(theSegment, true, func(m *spool.Message, _ *mail.Envelope, st []spool.RecipientState) {
			states = st
			wantContent(t, s, m, content(1, size))
		}); err != nil || len(states) != 2 || states[0].State != mail.StateDelivered || states[1].State != mail.StateActive {
			t.Errorf("%v %+v", err, states)
		}
	}
	closeSpool(t, s)
	s, _ = open(t, o)
	check()
	closeSpool(t, s)
}

// TestSettledButOwned: somebody settles a message that waits for its copies in
// a segment that is and stays this node's. Nothing of it is left when its
// copies fail, and nothing twice when they come.
func TestSettledButOwned(t *testing.T) {
	for _, answer := range []error{nil, errors.New("lost")} {
		p := newCluster(theSegment)
		told := 0
		o := options(vfs.NewMem())
		o.Placement = p
		o.Accepted = func(*spool.Message, *mail.Envelope) { told++ }
		s, _ := open(t, o)
		set(t, s, openSegment(s, theSegment))
		env := envelope(2)
		done := make(chan error)
		go func() {
			_, err := s.Accept(context.Background(), env, bytes.NewReader(content(1, 5000)))
			done <- err
		}()
		<-p.appended
		data := record.AppendResult(nil, &record.Result{ID: env.ID, Settled: []record.Settled{{Version: 1, State: mail.StateDelivered}}})
		if _, err := s.Take(theSegment, 1, []spool.Copy{{Seq: 1, Kind: record.KindResult, Data: [][]byte{data}}}); err != nil {
			t.Fatal(err)
		}
		p.answer <- answer
		if err := <-done; (answer == nil) != (err == nil) {
			t.Error(err)
		}
		want := 0
		if answer == nil {
			want = 1
		}
		st := s.Stats()
		if st.Accepted+st.TakenOver != st.Finished+st.HandedOver+uint64(st.Messages) || st.Messages != want || told != want {
			t.Errorf("%v: the queue was told of %d; %+v", answer, told, st)
		}
		closeSpool(t, s)
		s, _ = open(t, o)
		if inv, err := s.Inventory(theSegment); err != nil || len(inv.Live) != want {
			t.Errorf("%v: %+v %v", answer, inv, err)
		}
		closeSpool(t, s)
	}
}

// TestForgottenWhileWaiting: the segment is gone before the message's waiting
// ends. Nothing of it stays, and nothing keeps its file.
func TestForgottenWhileWaiting(t *testing.T) {
	for _, answer := range []error{nil, errors.New("lost")} {
		p := newCluster(theSegment)
		o := options(vfs.NewMem())
		o.Placement = p
		s, _ := open(t, o)
		set(t, s, openSegment(s, theSegment))
		done := make(chan error)
		go func() {
			_, err := s.Accept(context.Background(), envelope(1), bytes.NewReader(content(1, 5000)))
			done <- err
		}()
		<-p.appended
		if err := s.Forget(theSegment, 7); err != nil {
			t.Fatal(err)
		}
		before := s.Stats().LiveBytes
		p.answer <- answer
		<-done
		st := s.Stats()
		if st.LiveBytes > before || st.Messages != 0 || st.Accepted+st.TakenOver != st.Finished+st.HandedOver {
			t.Errorf("%v: %d octets were live before: %+v", answer, before, st)
		}
		closeSpool(t, s)
	}
}

// TestWhoGivesNumbers: nobody but the owner appends to a segment, and nobody
// puts copies beside a message that is arriving.
func TestWhoGivesNumbers(t *testing.T) {
	from, all := taken(t, 10)
	closeSpool(t, from)
	p := newCluster(theSegment)
	o := options(vfs.NewMem())
	o.Placement = p
	s, _ := open(t, o)
	set(t, s, openSegment(s, theSegment))
	if _, err := s.Take(theSegment, 1, all); !errors.Is(err, spool.ErrRefused) {
		t.Errorf("an owner takes: %v", err)
	}
	done := make(chan error)
	go func() {
		_, err := s.Accept(context.Background(), envelope(1), bytes.NewReader(content(1, 5000)))
		done <- err
	}()
	<-p.appended
	if _, err := s.Put(theSegment, 1, all); !errors.Is(err, spool.ErrRefused) {
		t.Errorf("put beside a message that arrives: %v", err)
	}
	p.answer <- nil
	if err := <-done; err != nil {
		t.Error(err)
	}
	if inv, err := s.Inventory(theSegment); err != nil || len(inv.Live) != 1 {
		t.Errorf("%+v %v", inv, err)
	}
	closeSpool(t, s)
}

// TestBadInventory: results that cannot be do not come in by an inventory
// either.
func TestBadInventory(t *testing.T) {
	s, all := taken(t, 10)
	last := all[len(all)-1].Seq
	for _, bad := range []record.Settled{{State: mail.StateTrashed + 1, Version: 1}, {State: mail.StateDeferred, Version: record.VersionMax + 1}} {
		data := record.AppendResult(nil, &record.Result{Settled: []record.Settled{bad}})
		inv := spool.Inventory{Segment: theSegment, Last: last, Upto: record.AllFirsts, Live: []spool.LiveMessage{{First: 1, Commit: last, Results: data}}}
		if _, _, err := s.Merge(theSegment, inv, true); !errors.Is(err, record.ErrPayload) {
			t.Errorf("%+v: %v", bad, err)
		}
		if _, err := s.Take(theSegment, 1, []spool.Copy{{Seq: 1, Kind: record.KindResult, Data: [][]byte{data}}}); !errors.Is(err, spool.ErrRefused) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	// Another message under the same number is not this one's business.
	data := record.AppendResult(nil, &record.Result{ID: mail.NewID(time.Now()), Settled: []record.Settled{{State: mail.StateDelivered, Version: 1}}})
	inv := spool.Inventory{Segment: theSegment, Last: last, Upto: record.AllFirsts, Live: []spool.LiveMessage{{First: 1, Commit: last, Results: data}}}
	if _, _, err := s.Merge(theSegment, inv, false); err != nil {
		t.Error(err)
	}
	if inv, err := s.Inventory(theSegment); err != nil || len(inv.Live) != 1 || len(inv.Live[0].Results) > 0 {
		t.Errorf("%+v %v", inv, err)
	}
	closeSpool(t, s)
}

// TestForgottenDoesNotCount: what was here of a segment before it was
// forgotten is no witness of what came after, not at the next start either.
func TestForgottenDoesNotCount(t *testing.T) {
	o := options(vfs.NewMem())
	from, all := taken(t, 10)
	o.Node = "mx2"
	s, _ := open(t, o)
	v := openSegment(from, theSegment)
	set(t, s, v)
	if c, err := s.Take(theSegment, 1, all); err != nil || c.WaitDurable() != nil {
		t.Fatal(err)
	}
	if err := s.Forget(theSegment, 7); err != nil {
		t.Fatal(err)
	}
	v.Epoch = 2
	set(t, s, v)
	for range 2 {
		if h := s.Held(); len(h) != 1 || h[0].Last != 0 || h[0].Epoch != 2 {
			t.Errorf("%+v", h)
		}
		closeSpool(t, s)
		s, _ = open(t, o)
	}
	closeSpool(t, s)
	closeSpool(t, from)
}

// TestNoRoomForHeader: while a header cannot be written what it says is not
// taken for told, and the next call tries again.
func TestNoRoomForHeader(t *testing.T) {
	mem := vfs.NewMem()
	o := options(mem)
	o.FileSize = 1 << 20
	s, _ := open(t, o)
	self := record.Member{Node: "mx2"}
	v := spool.Segment{ID: theSegment, Epoch: 1, State: record.SegmentOpen, Owner: self, Members: []record.Member{self}}
	set(t, s, v)
	mem.SetCapacity(1)
	big := v
	big.ID++
	for i := range 5000 { // each writes a long header
		big.Members = append(big.Members[:0], record.Member{Node: string(content(uint64(i), 4000))})
		big.Epoch++
		if _, err := s.SetSegment(big); err != nil {
			break
		}
	}
	v.Epoch, v.State, v.End, v.EndSet = 2, record.SegmentSealed, 50, true
	for range 2 {
		if _, err := s.SetSegment(v); !errors.Is(err, spool.ErrNoSpace) {
			t.Fatalf("not refused: %v", err)
		}
		if _, err := s.Complete(theSegment, 50); !errors.Is(err, spool.ErrNoSpace) {
			t.Fatalf("not refused: %v", err)
		}
	}
	mem.SetCapacity(1 << 40)
	err := spool.ErrNoSpace
	for began := time.Now(); errors.Is(err, spool.ErrNoSpace) && time.Since(began) < 20*time.Second; {
		_, err = s.SetSegment(v)
	}
	c, err2 := s.Complete(theSegment, 50)
	if err != nil || err2 != nil || c.WaitDurable() != nil {
		t.Fatal(err, err2)
	}
	closeSpool(t, s)
	s, _ = open(t, o)
	for _, h := range s.Held() {
		if h.ID == theSegment && (h.Epoch != 2 || !h.EndSet || h.Last != 50) {
			t.Errorf("%+v", h)
		}
	}
	closeSpool(t, s)
}

// TestEmptyChunk: a message that no reader would get through is not taken.
func TestEmptyChunk(t *testing.T) {
	for _, empty := range []int{0, 1, 2} {
		s, all := taken(t, 10)
		last := all[len(all)-1].Seq
		env := envelope(1)
		commit := record.Commit{First: last + 1, More: []uint32{1, 2}}
		var recs []spool.Copy
		for i := range 3 {
			data := record.AppendChunkHeader(nil, last+1, uint32(i))
			if i != empty {
				data = append(data, "text"...)
				commit.Length += 4
			}
			recs = append(recs, spool.Copy{Seq: last + 1 + uint64(i), Kind: record.KindChunk, Data: [][]byte{data}})
		}
		recs = append(recs, spool.Copy{Seq: last + 4, Kind: record.KindCommit, Data: [][]byte{record.AppendCommit(nil, &commit, env)}})
		if _, err := s.Take(theSegment, 1, recs); !errors.Is(err, spool.ErrRefused) {
			t.Errorf("chunk %d: %v", empty, err)
		}
		if h := s.Held(); h[0].Last != last || h[0].Unfinished != 1 {
			t.Errorf("%+v", h)
		}
		closeSpool(t, s)
	}
}
