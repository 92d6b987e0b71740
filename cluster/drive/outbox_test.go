package drive

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/replica"
	"github.com/clrelay/clrelay/cluster/segment"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// wire is a Sender that has room for a number of calls.
type wire struct {
	room int
	err  error // once there is none
	sent []replica.Item
	size []int // items of each call
}

func (w *wire) Send(_ string, items ...replica.Item) error {
	if w.room == 0 {
		return w.err
	}
	w.room--
	w.sent = append(w.sent, items...)
	w.size = append(w.size, len(items))
	return nil
}

func (w *wire) Break(string, error) {}

func (w *wire) seqs() (out []uint64) {
	for _, it := range w.sent {
		out = append(out, it.Seq)
	}
	return out
}

// filled is an outbox with records 1 to n, of which every second ends an
// append that somebody waits for.
func filled(n uint64) (*outbox, map[uint64]*ticket) {
	b, waits := &outbox{}, map[uint64]*ticket{}
	for seq := uint64(1); seq <= n; seq++ {
		o := outgoing{seq: seq, kind: 1, data: [][]byte{[]byte("x")}}
		if seq%2 == 0 {
			o.wait = &ticket{seq: seq, done: make(chan error, 1)}
			waits[seq] = o.wait
		}
		b.records = append(b.records, o)
	}
	return b, waits
}

// heard tells what became of an append; nothing yet if waiting is true.
func heard(t *ticket) (err error, waiting bool) {
	select {
	case err = <-t.done:
		return err, false
	default:
		return nil, true
	}
}

// Each append hears once, and what fits: acknowledged up to a number, moved
// above one, lost otherwise.
func TestOutboxEnds(t *testing.T) {
	b, waits := filled(10)
	b.acked(5)
	b.acked(5) // again: nothing is left of it
	b.moved(8)
	b.lost()
	b.close()
	for seq, want := range map[uint64]error{2: nil, 4: nil, 6: errLost, 8: errLost, 10: spool.ErrMoved} {
		err, waiting := heard(waits[seq])
		if waiting || !errors.Is(err, want) {
			t.Errorf("append %d heard %v (waiting %v), want %v", seq, err, waiting, want)
		}
		if _, waiting := heard(waits[seq]); !waiting {
			t.Errorf("append %d heard twice", seq)
		}
	}
	if len(b.records) != 0 {
		t.Errorf("%d records are left", len(b.records))
	}
	var r *mail.Reply
	if !errors.As(errLost, &r) || r.Code != 451 {
		t.Errorf("what is lost is answered %v", errLost)
	}
}

// Nothing above what was acknowledged hears of it.
func TestOutboxKeepsWaiting(t *testing.T) {
	b, waits := filled(6)
	b.acked(3)
	if _, waiting := heard(waits[4]); !waiting {
		t.Error("an append was ended that is not acknowledged as a whole")
	}
	b.moved(4)
	if _, waiting := heard(waits[4]); !waiting {
		t.Error("an append was moved that lies below the end")
	}
	if err, waiting := heard(waits[6]); waiting || !errors.Is(err, spool.ErrMoved) {
		t.Errorf("the append above the end heard %v", err)
	}
}

// Results of a segment that is given up end with a word for whoever waits.
func TestOutboxResultsEnd(t *testing.T) {
	b := &outbox{}
	var waits []*ticket
	for n := uint64(1); n <= 3; n++ {
		w := &ticket{seq: n, result: true, done: make(chan error, 1)}
		waits = append(waits, w)
		b.results = append(b.results, outgoing{seq: n, wait: w})
	}
	b.resultsAcked(2)
	b.close()
	for i, want := range []error{nil, nil, spool.ErrNotOwner} {
		if err, waiting := heard(waits[i]); waiting || !errors.Is(err, want) {
			t.Errorf("result %d heard %v (waiting %v), want %v", i+1, err, waiting, want)
		}
	}
}

func appendOf(from, to uint64) *segment.Action {
	return &segment.Action{Kind: segment.ActSend, Peer: fsm.Ref{Node: "b"}, Item: segment.Item{Kind: segment.ItemAppend, Segment: 7, Epoch: 3, Seq: from, Arg: to}}
}

// What is asked for goes out in order, each record an item of its own, and
// never what lies beyond.
func TestOutboxSends(t *testing.T) {
	b, _ := filled(9)
	w := &wire{room: -1}
	if rest, err := b.send(w, appendOf(3, 7)); rest != 0 || err != nil {
		t.Fatal(rest, err)
	}
	if got := w.seqs(); !slices.Equal(got, []uint64{3, 4, 5, 6, 7}) {
		t.Errorf("sent %v", got)
	}
	for _, it := range w.sent {
		c, err := copyIn(&it)
		if err != nil || c.Seq != it.Seq || c.Kind != 1 || string(slices.Concat(c.Data...)) != "x" || it.Segment != 7 || it.Epoch != 3 {
			t.Errorf("item %d reads as %+v: %v", it.Seq, c, err)
		}
	}
}

// A record that everybody has by now is not sent, and what follows it is.
func TestOutboxSendsWhatIsLeft(t *testing.T) {
	b, _ := filled(9)
	b.acked(5)
	w := &wire{room: -1}
	if rest, err := b.send(w, appendOf(3, 7)); rest != 0 || err != nil {
		t.Fatal(rest, err)
	}
	if got := w.seqs(); !slices.Equal(got, []uint64{6, 7}) {
		t.Errorf("sent %v", got)
	}
	w = &wire{room: -1}
	if rest, err := b.send(w, appendOf(1, 5)); rest != 0 || err != nil || len(w.sent) > 0 {
		t.Errorf("sent %v, rest %d, %v", w.seqs(), rest, err)
	}
}

// Results that are no longer in memory are an error, for a gap would be taken
// for the whole.
func TestOutboxMissesNoResult(t *testing.T) {
	b := &outbox{}
	for n := uint64(1); n <= 4; n++ {
		b.results = append(b.results, outgoing{seq: n, head: 100 + n, data: [][]byte{{1}}})
	}
	b.resultsAcked(2)
	a := appendOf(1, 4)
	a.Item.Kind = segment.ItemResults
	if _, err := b.sendResults(&wire{room: -1}, a); !errors.Is(err, errGone) {
		t.Errorf("it says %v", err)
	}
	w := &wire{room: -1}
	a.Item.Seq = 3
	if rest, err := b.sendResults(w, a); rest != 0 || err != nil || !slices.Equal(w.seqs(), []uint64{3, 4}) {
		t.Errorf("sent %v, rest %d, %v", w.seqs(), rest, err)
	}
	if c, err := copyIn(&w.sent[0]); err != nil || c.Seq != 103 {
		t.Errorf("the result's header has number %d: %v", c.Seq, err)
	}
}

// When a link's window is full the rest is named, and nothing of it was sent;
// going on from there misses nothing and repeats nothing.
func TestOutboxWaitsForRoom(t *testing.T) {
	b := &outbox{}
	big := []byte(strings.Repeat("b", sendMax/2))
	for seq := uint64(1); seq <= 7; seq++ {
		b.records = append(b.records, outgoing{seq: seq, data: [][]byte{big}})
	}
	w := &wire{room: 2, err: replica.ErrFull}
	a := appendOf(1, 7)
	for calls := 0; ; calls++ {
		rest, err := b.send(w, a)
		if err != nil || calls > 10 {
			t.Fatal(calls, err)
		}
		if rest == 0 {
			break
		}
		if got := w.sent[len(w.sent)-1].Seq; rest != got+1 {
			t.Fatalf("after record %d the rest begins with %d", got, rest)
		}
		a.Item.Seq, w.room = rest, 1
	}
	if got := w.seqs(); !slices.Equal(got, []uint64{1, 2, 3, 4, 5, 6, 7}) {
		t.Errorf("sent %v", got)
	}
	if slices.Max(w.size) > 2 {
		t.Errorf("calls of %v items, of half the bound each", w.size)
	}
	w = &wire{err: replica.ErrDown}
	if rest, err := b.send(w, appendOf(1, 7)); rest != 0 || !isDown(err) {
		t.Errorf("without a stream: rest %d, %v", rest, err)
	}
}

// What peers send as records is read with suspicion.
func TestCopyIn(t *testing.T) {
	good := copyOut(9, 1<<40, [][]byte{[]byte("ab"), []byte("c")})
	if c, err := copyIn(&replica.Item{Data: good}); err != nil || c.Kind != 9 || c.Seq != 1<<40 || string(slices.Concat(c.Data...)) != "abc" {
		t.Errorf("%+v, %v", c, err)
	}
	for name, data := range map[string][][]byte{"nothing": nil, "a short head": {good[0][:8]}, "a long head": {append(slices.Clone(good[0]), 0)}} {
		if _, err := copyIn(&replica.Item{Data: data}); !errors.Is(err, errBadItem) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
