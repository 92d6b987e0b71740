package tracelog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/tracelog/record"
	"github.com/clrelay/clrelay/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that a test moves.
type clock struct{ at atomic.Int64 }

func newClock(at time.Time) *clock {
	c := &clock{}
	c.at.Store(at.UnixMicro())
	return c
}

func (c *clock) now() time.Time          { return time.UnixMicro(c.at.Load()) }
func (c *clock) forward(d time.Duration) { c.at.Add(d.Microseconds()) }

var birth = time.Date(2026, 11, 23, 9, 12, 1, 0, time.UTC)

type world struct {
	t   *testing.T
	fs  vfs.FS
	now *clock
	out bytes.Buffer
	o   Options
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, fs: vfs.NewMem(), now: newClock(birth)}
	w.o = Options{Dir: "trace", Keep: 7 * 24 * time.Hour, MaxSize: 1 << 30, Now: w.now.now, Log: slog.New(slog.NewTextHandler(&w.out, nil))}
	return w
}

// open opens a Log, which ends with the test if not before.
func (w *world) open() *Log {
	w.t.Helper()
	w.o.FS = w.fs
	l := Open(w.o)
	w.t.Cleanup(func() { _ = l.Close() })
	return l
}

func (w *world) find(l *Log, q Query) *Result {
	w.t.Helper()
	r, err := l.Search(w.t.Context(), q)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func addr(local, domain string) mail.Address { return mail.Address{Local: local, Domain: domain} }

// envelope is that of message n.
func envelope(n int, at time.Time) *mail.Envelope {
	return &mail.Envelope{
		ID: mail.NewID(at), From: addr("sender", "example.edu"), MessageID: fmt.Sprintf("m%d@example.edu", n), Arrived: at,
		Recipients: []mail.Recipient{{Addr: addr(fmt.Sprintf("rcpt%d", n), "example.org")}},
		Client:     mail.Client{Addr: netip.MustParseAddr("192.0.2.7"), Helo: "client.example", Protocol: "ESMTPS", TLS: "TLSv1.3", Sender: "campus"},
	}
}

func (w *world) delivered(l *Log, env *mail.Envelope, text string) {
	l.Recipient(&Fate{Kind: record.Delivered, ID: env.ID, From: env.From, To: env.Recipients[0].Addr, Attempt: 2, Delay: 3 * time.Second,
		Outcome: &mail.Outcome{Reply: *mail.NewReply(250, "2.0.0", text), Remote: "mx.example.org[192.0.2.1]:25", TLS: "TLSv1.3 verified", Source: "out1"}})
}

// An event comes back as it was, and can be found by all that it has.
func TestFoundByEverything(t *testing.T) {
	w := newWorld(t)
	w.o.Copies = func(segment uint64) []string { return []string{"mx1", fmt.Sprintf("mx%d", segment&^(1<<63))} }
	l := w.open()
	env := envelope(1, birth)
	env.Recipients = append(env.Recipients, mail.Recipient{Addr: addr("Second", "B.example")})
	l.Accepted(env, 4711, 1<<63|3, 21*time.Millisecond)
	w.delivered(l, env, "Ok: queued as 4Xy7")
	dsn := mail.NewID(birth.Add(time.Second))
	l.Reported(dsn, env.ID, "failure")
	l.Rejected(&env.Client, "evil@example.net", "nobody@example.edu", mail.NewReply(550, "5.7.1", "no").WithCause(errors.New("no entry matches")))
	l.Recipient(&Fate{Kind: record.Held, ID: env.ID, From: env.From, To: env.Recipients[0].Addr, Reason: "INC-1"})

	for term, want := range map[string]string{
		env.ID.String():                  "accepted delivered dsn held",
		strings.ToLower(env.ID.String()): "accepted delivered dsn held",
		"<m1@example.edu>":               "accepted",
		"m1@example.edu":                 "accepted",
		"SENDER@example.EDU":             "accepted delivered held",
		"rcpt1@example.org":              "accepted delivered held",
		"second@b.EXAMPLE":               "accepted",
		"4Xy7":                           "delivered",
		"evil@example.net":               "rejected",
		"<nobody@example.edu>":           "rejected",
		dsn.String():                     "dsn",
		"M1@example.edu":                 "",
		"4xy7":                           "",
		"cond@b.example":                 "",
		mail.NewID(birth).String():       "",
	} {
		r := w.find(l, Query{Term: record.ParseTerm(term)})
		var got []string
		for _, e := range r.Events {
			got = append(got, e.Kind.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s finds %v, want %s", term, got, want)
		}
		if !r.Oldest.Equal(birth) {
			t.Errorf("the oldest is %v", r.Oldest)
		}
	}

	a := w.find(l, Query{IDs: []mail.ID{env.ID}}).Events
	if len(a) != 4 {
		t.Fatalf("%d events of the message", len(a))
	}
	if e := a[0]; !e.Time.Equal(birth) || e.From != "sender@example.edu" || fmt.Sprint(e.To) != "[rcpt1@example.org Second@B.example]" || e.Recipients != 2 ||
		e.MessageID != "m1@example.edu" || e.Client != env.Client || e.Size != 4711 || e.Took != 21*time.Millisecond || fmt.Sprint(e.Copies) != "[mx1 mx3]" {
		t.Errorf("accepted is %+v", e)
	}
	if e := a[1]; e.Relay != "mx.example.org[192.0.2.1]:25" || e.TLS != "TLSv1.3 verified" || e.Source != "out1" || e.Reply.Line() != "250 2.0.0 Ok: queued as 4Xy7" || e.Attempt != 2 || e.Delay != 3*time.Second {
		t.Errorf("delivered is %+v", e)
	}
	if e := a[2]; e.ID != dsn || e.Of != env.ID || e.Report != "failure" {
		t.Errorf("dsn is %+v", e)
	}
	r := w.find(l, Query{Term: record.ParseTerm("evil@example.net")}).Events[0]
	if r.Reply.Line() != "550 5.7.1 no" || r.Reason != "no entry matches" || r.Client.Addr != env.Client.Addr {
		t.Errorf("rejected is %+v", r)
	}
}

// fill writes messages of some octets each until a chunk is sealed.
func (w *world) fill(l *Log, n int) (envs []*mail.Envelope) {
	for i := range n {
		env := envelope(i, w.now.now())
		env.EnvID = ""
		l.Accepted(env, 1, 0, 0)
		w.delivered(l, env, strings.Repeat("x", 200)+fmt.Sprintf(" queued as Q%dQ", i))
		envs = append(envs, env)
		w.now.forward(time.Second)
		if i%500 == 499 {
			l.sync(w.t.Context())
		}
	}
	l.sync(w.t.Context())
	return envs
}

// Messages are found in chunks of this process's and of one before, and in
// the journal that a killed process left.
func TestFoundInChunks(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	envs := w.fill(l, 5000)
	chunks := func(l *Log) (n int) {
		l.store.mu.Lock()
		defer l.store.mu.Unlock()
		for _, f := range l.store.files {
			n += len(l.store.index(f))
		}
		return n
	}
	if n := chunks(l); n < 3 {
		t.Fatalf("%d chunks: the test does not test them", n)
	}
	if size := l.Size(); size > 5000*600/3 {
		t.Errorf("%d octets on the disk", size)
	}
	check := func(l *Log) {
		t.Helper()
		for i := 0; i < len(envs); i += 611 {
			r := w.find(l, Query{Term: record.ParseTerm(fmt.Sprintf("<m%d@example.edu>", i))})
			if len(r.Events) != 1 || r.Events[0].ID != envs[i].ID {
				t.Errorf("message %d: %d events", i, len(r.Events))
			}
			if r := w.find(l, Query{Term: record.ParseTerm(fmt.Sprintf("Q%dQ", i))}); len(r.Events) != 1 {
				t.Errorf("the next hop's ID of %d: %d events", i, len(r.Events))
			}
			if r := w.find(l, Query{IDs: []mail.ID{envs[i].ID}}); len(r.Events) != 2 {
				t.Errorf("events of message %d: %d", i, len(r.Events))
			}
		}
		if r := w.find(l, Query{Term: record.ParseTerm("sender@example.edu"), Messages: 10}); !r.More || len(r.Events) < 10 || len(r.Events) > 6000 {
			t.Errorf("of many messages: %d events, more %v", len(r.Events), r.More)
		}
		if r := w.find(l, Query{Term: record.ParseTerm("sender@example.edu"), Events: 7}); !r.More || len(r.Events) != 7 {
			t.Errorf("of many events: %d events, more %v", len(r.Events), r.More)
		}
		from := birth.Add(100 * time.Second)
		if r := w.find(l, Query{Term: record.ParseTerm("sender@example.edu"), Since: from, Until: from.Add(9 * time.Second)}); len(r.Events) != 20 {
			t.Errorf("within ten seconds: %d events", len(r.Events))
		}
	}
	check(l)
	killed := vfs.FS(w.fs.(*vfs.Mem))
	check(reopen(w, killed)) // while the first one has not closed: as after SIGKILL
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// reopen opens a second Log on a copy of what the first one wrote.
func reopen(w *world, from vfs.FS) *Log {
	w.t.Helper()
	w.fs = copyOf(w.t, from, w.o.Dir)
	return w.open()
}

func copyOf(t *testing.T, from vfs.FS, dir string) vfs.FS {
	t.Helper()
	to := vfs.NewMem()
	if err := to.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	names, err := from.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		write(t, to, filepath.Join(dir, name), read(t, from, filepath.Join(dir, name)))
	}
	return to
}

func read(t *testing.T, f vfs.FS, name string) []byte {
	t.Helper()
	h, err := f.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	size, err := h.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := h.ReadAt(b, 0); err != nil && size > 0 && len(b) != int(size) {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, f vfs.FS, name string, b []byte) {
	t.Helper()
	h, err := f.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
}

func (w *world) names(suffix string) (out []string) {
	w.t.Helper()
	names, err := w.fs.ReadDir(w.o.Dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, suffix) {
			out = append(out, filepath.Join(w.o.Dir, n))
		}
	}
	return out
}

// A torn end, of a file or of a journal, costs what is torn and nothing else,
// and is no damage. Damage is named, and costs its chunk.
func TestTornAndDamaged(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	envs := w.fill(l, 4000)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole := w.fs
	file, journal := w.names(suffixFile)[0], w.names(suffixJournal)[0]
	text := read(t, whole, file)
	count := func(l *Log) (n int, r *Result) {
		r = w.find(l, Query{Term: record.ParseTerm("sender@example.edu")})
		return len(r.Events), r
	}
	all, r := count(reopen(w, whole))
	if all != 2*len(envs) || len(r.Damaged) > 0 {
		t.Fatalf("%d events of %d messages, damaged %v", all, len(envs), r.Damaged)
	}

	w.fs = copyOf(t, whole, w.o.Dir)
	write(t, w.fs, file, text[:len(text)-100])
	if n, r := count(w.open()); n >= all || n < all/3 || len(r.Damaged) > 0 {
		t.Errorf("with a torn file %d events, damaged %v", n, r.Damaged)
	}

	w.fs = copyOf(t, whole, w.o.Dir)
	frames := read(t, whole, journal)
	write(t, w.fs, journal, frames[:len(frames)-3])
	torn, r := count(w.open())
	if torn >= all || torn < all/2 || len(r.Damaged) > 0 {
		t.Errorf("with a torn journal %d events, damaged %v", torn, r.Damaged)
	}

	w.fs = copyOf(t, whole, w.o.Dir)
	bad := bytes.Clone(text)
	bad[len(bad)/2] ^= 1
	write(t, w.fs, file, bad)
	n, r := count(w.open())
	if n >= all || n < all/3 || len(r.Damaged) != 1 || !strings.Contains(r.Damaged[0], filepath.Base(file)) {
		t.Errorf("with a damaged chunk %d events, damaged %v", n, r.Damaged)
	}

	w.fs = copyOf(t, whole, w.o.Dir)
	write(t, w.fs, file, []byte("this is no file of ours, and is long enough for a head to be read from it"))
	n, r = count(w.open())
	if n >= all || n == 0 || len(r.Damaged) != 1 {
		t.Errorf("with a foreign file %d events, damaged %v", n, r.Damaged)
	}
}

// What a process that was killed had in its first journal is found.
func TestFirstJournal(t *testing.T) {
	w := newWorld(t)
	w.fill(w.open(), 3)
	if r := w.find(reopen(w, w.fs), Query{Term: record.ParseTerm("m2@example.edu")}); len(r.Events) != 1 {
		t.Errorf("%d events", len(r.Events))
	}
}

// A journal that became a chunk before the crash does not count twice.
func TestJournalOfAChunk(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	w.fill(l, 100)
	journal := w.names(suffixJournal)[0]
	frames := read(t, w.fs, journal)
	w.fill(l, 2000) // seals it
	if got := w.names(suffixJournal); len(got) != 1 || got[0] == journal {
		t.Fatalf("journals %v, the first was %s", got, journal)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, w.fs, journal, frames)
	r := w.find(w.open(), Query{Term: record.ParseTerm("sender@example.edu")})
	if len(r.Events) != 2*2100 {
		t.Errorf("%d events, want %d", len(r.Events), 2*2100)
	}
	if got := w.names(suffixJournal); len(got) != 1 || got[0] == journal {
		t.Errorf("journals %v", got)
	}
}

func TestRemovedByAge(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	for range 10 { // ten days, a file each
		w.fill(l, 1200)
		w.now.forward(25 * time.Hour)
	}
	l.sync(t.Context())
	before := len(w.names(suffixFile))
	l.Configure(3*24*time.Hour, 1<<30)
	w.fill(l, 2400)
	after := len(w.names(suffixFile))
	oldest := w.find(l, Query{}).Oldest
	if after >= before || after < 2 {
		t.Errorf("%d files, then %d", before, after)
	}
	if age := w.now.now().Sub(oldest); age < 2*24*time.Hour || age > 6*24*time.Hour {
		t.Errorf("the oldest event is %v old", age)
	}
}

func TestRemovedBySize(t *testing.T) {
	w := newWorld(t)
	w.o.MaxSize = 200 << 10
	l := w.open()
	for range 10 {
		w.fill(l, 1200)
		w.now.forward(25 * time.Hour)
	}
	if size := l.Size(); size > w.o.MaxSize+chunkSize+fileSize/100 {
		t.Errorf("%d octets are kept", size)
	}
	if r := w.find(l, Query{Term: record.ParseTerm("m1199@example.edu")}); len(r.Events) == 0 || r.Oldest.Equal(birth) {
		t.Errorf("%d events of the last message, oldest %v", len(r.Events), r.Oldest)
	}
}

// The disk keeps its reserve: old traces go, and then new ones are lost.
func TestReserve(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	w.fill(l, 2500)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(w.names(suffixFile)); n == 0 {
		t.Fatal("no file")
	}
	w.o.Reserve = 1 << 62
	l = w.open()
	w.fill(l, 2500)
	if got := w.names(suffixFile); len(got) != 0 {
		t.Errorf("files are left: %v", got)
	}
	if n, _ := l.Lost(); n == 0 {
		t.Error("nothing was lost")
	}
}

// A disk that takes nothing costs traces and no time, and the loss is told.
func TestStuckDiskLosesAndNeverWaits(t *testing.T) {
	w := newWorld(t)
	var stuck atomic.Bool
	gate := make(chan struct{})
	w.fs = vfs.NewFault(vfs.NewMem(), func(c vfs.Call) vfs.Outcome {
		if c.Op == vfs.OpWrite && stuck.Load() {
			return vfs.Outcome{Wait: gate}
		}
		return vfs.Outcome{}
	})
	l := w.open()
	env := envelope(1, birth)
	l.Accepted(env, 1, 0, 0)
	l.sync(t.Context())
	stuck.Store(true)
	for n := uint64(0); n < 100; n, _ = l.Lost() { // each turn returns although nothing is written
		w.delivered(l, env, strings.Repeat("x", 900))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := l.Search(ctx, Query{IDs: []mail.ID{env.ID}})
	if err != nil || r.Lost < 100 || !r.LastLost.Equal(birth) || len(r.Events) == 0 {
		t.Errorf("%d events, lost %d, last %v, error %v", len(r.Events), r.Lost, r.LastLost, err)
	}
	stuck.Store(false)
	close(gate)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// A disk that fails is tried again; what was open meanwhile is kept in memory.
func TestFailingDisk(t *testing.T) {
	w := newWorld(t)
	var broken atomic.Bool
	w.fs = vfs.NewFault(vfs.NewMem(), func(c vfs.Call) vfs.Outcome {
		if broken.Load() && (c.Op == vfs.OpWrite || c.Op == vfs.OpOpen) {
			return vfs.Outcome{Err: syscall.EIO}
		}
		return vfs.Outcome{}
	})
	broken.Store(true)
	l := w.open()
	w.fill(l, 10)
	if r := w.find(l, Query{Term: record.ParseTerm("m3@example.edu")}); len(r.Events) != 1 || r.Lost != 0 {
		t.Errorf("%d events, lost %d", len(r.Events), r.Lost)
	}
	w.fill(l, 2000) // a chunk, which can't be written
	if n, _ := l.Lost(); n < 1000 {
		t.Errorf("%d lost", n)
	}
	broken.Store(false)
	w.now.forward(time.Minute)
	w.fill(l, 2000)
	lost, _ := l.Lost()
	w.fill(l, 10)
	if r := w.find(l, Query{Term: record.ParseTerm("m3@example.edu")}); len(r.Events) < 1 || r.Lost != lost {
		t.Errorf("after the disk is back: %d events, lost %d then %d", len(r.Events), lost, r.Lost)
	}
	if !strings.Contains(w.out.String(), "the disk is no good") {
		t.Errorf("the log says %q", w.out.String())
	}
}

func TestSubscription(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	s := l.Subscribe(2, func(e *Event) bool { return e.Kind == record.Delivered })
	env := envelope(1, birth)
	l.Accepted(env, 1, 0, 0)
	for range 5 {
		w.delivered(l, env, "ok")
	}
	l.sync(t.Context())
	for range 2 {
		if e := <-s.C; e.Kind != record.Delivered || e.ID != env.ID {
			t.Errorf("event %+v", e)
		}
	}
	if lost := s.Lost(); lost != 3 {
		t.Errorf("%d lost, want 3", lost)
	}
	s.Close()
	s.Close()
	w.delivered(l, env, "ok")
	l.sync(t.Context())
	if len(s.C) != 0 || l.nsubs.Load() != 0 {
		t.Error("it goes on after Close")
	}
}

func TestNilLog(t *testing.T) {
	var l *Log
	l.Accepted(envelope(1, birth), 1, 1, 1)
	l.Rejected(&mail.Client{}, "", "", mail.NewReply(550, "", ""))
	l.Recipient(&Fate{Kind: record.Held})
	l.Configure(1, 1)
	r, err := l.Search(t.Context(), Query{Term: record.ParseTerm("a@b")})
	if err != nil || len(r.Events) != 0 || l.Size() != 0 || l.Close() != nil {
		t.Errorf("a nil log finds %v, %v", r, err)
	}
	l.Subscribe(1, nil).Close()
}

// A message with very many recipients takes bounded room.
func TestManyRecipients(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	env := envelope(0, birth)
	for i := range 65535 {
		env.Recipients = append(env.Recipients, mail.Recipient{Addr: addr(fmt.Sprintf("r%d", i), strings.Repeat("x", 60)+".example")})
	}
	l.Accepted(env, 1, 0, 0)
	e := w.find(l, Query{IDs: []mail.ID{env.ID}}).Events[0]
	if e.Recipients != 65536 || len(e.To) < 1000 || len(e.To) >= 65536 {
		t.Errorf("%d recipients, %d named", e.Recipients, len(e.To))
	}
}

// FuzzReader reads what lies on a disk: whatever it is, it comes to an end and
// takes no more memory than a chunk may have.
func FuzzReader(f *testing.F) {
	k := newCodec()
	f.Cleanup(k.close)
	rec := record.Begin(nil, record.Delivered, birth, mail.NewID(birth))
	rec.Str(record.FieldFrom, "a@b")
	rec.Num(record.FieldAttempt, 3)
	raw := rec.End()
	packed, _ := k.pack(nil, 1, raw)
	f.Add(packed, raw)
	f.Add(append(bytes.Clone(packed), packed[:60]...), raw[:len(raw)-1])
	f.Add([]byte{}, []byte{1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, file, records []byte) {
		r := bytes.NewReader(file)
		chunks, _ := readChunks(r, int64(len(file)))
		for i := range chunks {
			filter, err := chunks[i].filter(r, nil)
			if err == nil {
				has(filter[chunkHead:], []uint64{1})
			}
			_, raw, err := k.unpack(&chunks[i], r, nil, nil)
			if err == nil && len(raw) > maxRaw {
				t.Fatalf("a chunk of %d octets", len(raw))
			}
		}
		got, _ := parseJournal(records)
		for _, b := range [][]byte{records, got} {
			for len(b) > 0 {
				one, rest, err := record.Next(b)
				if err != nil {
					break
				}
				b = rest
				record.ParseTerm("a@b").In(one)
				one.Keys(func(uint64) {})
				_, _ = one.Event()
			}
		}
	})
}

func BenchmarkAccepted(b *testing.B) {
	env := envelope(1, birth)
	benchmark(b, func(l *Log) { l.Accepted(env, 10240, 0, time.Millisecond) })
}

func BenchmarkDelivered(b *testing.B) {
	env := envelope(1, birth)
	f := &Fate{Kind: record.Delivered, ID: env.ID, From: env.From, To: env.Recipients[0].Addr, Attempt: 1, Delay: 300 * time.Millisecond,
		Outcome: &mail.Outcome{Reply: *mail.NewReply(250, "2.0.0", "Ok: queued as 4Xy7"), Remote: "mx.partner.example[203.0.113.9]:25", TLS: "TLSv1.3 TLS_AES_256_GCM_SHA384 verified"}}
	benchmark(b, func(l *Log) { l.Recipient(f) })
}

// benchmark measures how long an event keeps its caller, and what all of it
// takes of the processors. It waits for the record.Writer, so that nothing is lost.
func benchmark(b *testing.B, event func(*Log)) {
	l := Open(Options{Dir: filepath.Join(b.TempDir(), "trace"), Keep: time.Hour, MaxSize: 1 << 30})
	b.ReportAllocs()
	began, n := cpu(), 0
	for b.Loop() {
		event(l)
		if n++; n%1000 == 0 {
			b.StopTimer()
			l.sync(b.Context())
			b.StartTimer()
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((cpu()-began).Nanoseconds())/float64(n), "cpu-ns/event")
	if lost, _ := l.Lost(); lost > 0 {
		b.Errorf("%d of %d lost", lost, n)
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
