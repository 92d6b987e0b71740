package faults

import (
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
)

// The judge must see what it is there for.
func TestJudge(t *testing.T) {
	sink := &peers.Sink{Hash: true}
	if err := sink.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	text := peers.Source{Addr: sink.Addr(), Sessions: 1, From: "a@load.test", Body: peers.RandomBody}
	for range 2 {
		if sent := text.Run(t.Context(), 1, 3); sent.Errors != 0 {
			t.Fatal(sent.LastErr)
		}
	}
	began := time.Now()
	fresh := func() (*judge, *load) {
		l := &load{text: text}
		return newJudge(&fleet{o: Options{Log: t.Logf}, sink: sink, load: l, counted: newCounters(nil)}), l
	}
	wants := func(what string, j *judge, part string) {
		t.Helper()
		if got := strings.Join(j.verdicts, ";"); part == "" && got != "" || !strings.Contains(got, part) {
			t.Errorf("%s: %q", what, got)
		}
	}

	j, l := fresh()
	l.done = []try{{seq: 1}, {seq: 3}, {seq: 4}, {seq: 9, reply: "451"}}
	j.take()
	if list := j.missing(); len(list) != 1 || list[0].seq != 4 {
		t.Errorf("missing: %v", list)
	}
	wants("what arrived as it was sent", j, "")
	j.copies()
	wants("copies that nobody counted", j, "3 copies arrived more than once")

	j, l = fresh()
	l.text.From = "b@load.test"
	l.done = []try{{seq: 1}}
	j.take()
	j.missing()
	wants("another content", j, "another content")

	j, _ = fresh()
	s := []silence{{node: 1, from: began, to: began.Add(time.Second)}}
	j.silences([]try{
		{node: 0, ended: began.Add(time.Millisecond)}, {node: 1, ended: began.Add(-time.Millisecond)},
		{node: 1, ended: began.Add(time.Millisecond), reply: "451"},
	}, s)
	wants("nobody who must not", j, "")
	j.silences([]try{{node: 1, ended: began.Add(time.Millisecond)}}, s)
	wants("a 250 without a lease", j, "mx2 answered 250")

	j, _ = fresh()
	line := func(after time.Duration, id string) string {
		return "time=" + began.Add(after).UTC().Format(time.RFC3339Nano) + " event=delivered node=mx1 id=" + id + " from=a to=b\n"
	}
	j.line(0, line(-2*time.Second, "A"))
	j.line(1, line(-1900*time.Millisecond, "B"))
	j.line(1, line(0, "A"))
	wants("a takeover", j, "")
	j.line(0, line(20*time.Second, "C"))
	j.line(1, line(20*time.Second+300*time.Millisecond, "C"))
	wants("an answer that was read late", j, "")
	j.line(2, line(300*time.Millisecond, "A"))
	wants("two at once", j, "too near")

	j, _ = fresh()
	j.line(0, "panic: no\n")
	wants("a panic", j, "panic: no")
	j.line(0, "time=x level=ERROR msg=\"the spool failed\" node=mx1\n")
	if j.errors["mx1 the spool failed"] != 1 {
		t.Errorf("errors: %v", j.errors)
	}
}
