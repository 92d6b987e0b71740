package inspect_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
	"github.com/clrelay/clrelay/spool/inspect"
)

const body = "Received: by us\r\nSubject: x\r\n\r\n.dot\r\n"

func options(fs vfs.FS) spool.Options {
	return spool.Options{FS: fs, Dir: "/data", Node: "mx1", FileSize: 256 << 10, Boot: "1", Reserve: 1, SyncEvery: time.Millisecond, Fatal: func(error) {}}
}

// store makes a directory with n messages of sizes from 30 octets to 150,000,
// the even ones deferred, as a crash left it if it was not closed.
func store(t *testing.T, n int, closed bool) (*vfs.Mem, map[mail.ID][]byte) {
	t.Helper()
	mem := vfs.NewMem()
	s, _, err := spool.Open(options(mem))
	if err != nil {
		t.Fatal(err)
	}
	want := map[mail.ID][]byte{}
	for i := range n {
		env := &mail.Envelope{ID: mail.NewID(time.Now()), From: mail.Address{Local: "a", Domain: "example.org"}, Arrived: time.UnixMilli(int64(i)),
			Recipients: []mail.Recipient{{Addr: mail.Address{Local: fmt.Sprint("to", i), Domain: "example.edu"}, Notify: mail.NotifyFailure, ORcptType: "rfc822", ORcpt: "x@y"}},
			Client:     mail.Client{Helo: "h", Protocol: "ESMTP", Sender: "campus"}}
		text := body + strings.Repeat("0123456789abcdef", i%10*i%10*1000)
		m, err := s.Accept(t.Context(), env, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		want[env.ID] = []byte(text)
		if i%2 == 0 {
			r := spool.Result{State: mail.StateDeferred, Attempts: 3, Next: time.Unix(1_900_000_000, 0), Reply: *mail.NewReply(451, "4.7.1", "greylisted"), Remote: "mx:25"}
			if err := s.SettleDurable(m, []spool.Result{r}); err != nil {
				t.Fatal(err)
			}
		}
	}
	img := mem.CrashImage(1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if closed {
		return mem, want
	}
	return img, want
}

// files gives the content of everything in a directory.
func files(t *testing.T, fsys vfs.FS, dir string) map[string]string {
	t.Helper()
	names, err := fsys.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, name := range names {
		path := filepath.Join(dir, name)
		if name == "log" {
			for k, v := range files(t, fsys, path) {
				out[k] = v
			}
			continue
		}
		out[path] = read(t, fsys, path)
	}
	return out
}

func read(t *testing.T, fsys vfs.FS, name string) string {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, size))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSound(t *testing.T) {
	for _, closed := range []bool{true, false} {
		mem, want := store(t, 40, closed)
		before := files(t, mem, "/data")
		var size int64
		for _, text := range want {
			size += int64(len(text))
		}
		rep, err := inspect.Check(mem, "/data")
		if err != nil || rep.Messages != 40 || rep.Recipients != 40 || rep.Bytes != size || rep.Files == 0 || len(rep.Damage) > 0 {
			t.Errorf("check: %+v, %v", rep, err)
		}
		if again, err := inspect.Export(mem, "/data", "/out"); err != nil || !reflect.DeepEqual(again, rep) {
			t.Errorf("export: %+v, %v", again, err)
		}
		deferred := 0
		for id, text := range want {
			if got := read(t, mem, "/out/"+id.String()+".eml"); got != string(text) {
				t.Errorf("message %s: %d octets, want %d", id, len(got), len(text))
			}
			var m inspect.Message
			if err := json.Unmarshal([]byte(read(t, mem, "/out/"+id.String()+".json")), &m); err != nil {
				t.Fatal(err)
			}
			if m.ID != id.String() || m.From != "a@example.org" || len(m.Recipients) != 1 || m.Recipients[0].ORcpt != "rfc822;x@y" || m.Client.Sender != "campus" || len(m.Damage) > 0 {
				t.Errorf("%+v", m)
			}
			if r := m.Recipients[0]; r.State == "deferred" && r.LastReply == "451 4.7.1 greylisted" && r.NextAttempt.Unix() == 1_900_000_000 {
				deferred++
			}
		}
		if deferred != 20 {
			t.Errorf("%d are deferred", deferred)
		}
		if _, err := inspect.Export(mem, "/data", "/out"); !errors.Is(err, os.ErrExist) {
			t.Errorf("exporting over what is there: %v", err)
		}
		after := files(t, mem, "/data")
		for name, text := range before {
			if after[name] != text {
				t.Errorf("%s was changed", name)
			}
		}
		if len(after) != len(before) {
			t.Errorf("%d files, before %d", len(after), len(before))
		}
	}
}

func TestInUse(t *testing.T) {
	mem := vfs.NewMem()
	s, _, err := spool.Open(options(mem))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inspect.Check(mem, "/data"); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("%v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestNothingThere(t *testing.T) {
	if _, err := inspect.Check(vfs.NewMem(), "/data"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestFlippedBits flips bits all over the log. Every flip in what counts is
// found, with file and offset; it costs at most one message, which is
// reported; and a spool opened on it gives the others whole, and for the one
// an error and never wrong content.
func TestFlippedBits(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	mem, want := store(t, 40, true)
	logs, err := mem.ReadDir("/data/log")
	if err != nil {
		t.Fatal(err)
	}
	missed, flips := 0, 80
	if testing.Short() {
		flips = 20
	}
	for range flips {
		img := mem.CrashImage(1) // everything is synced: a copy
		name := "/data/log/" + logs[rnd.IntN(len(logs))]
		f, err := img.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		size, _ := f.Size()
		off := rnd.Int64N(size)
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, off); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1 << rnd.IntN(8)
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		where := fmt.Sprintf("%s at %d", name, off)
		rep, err := inspect.Check(img, "/data")
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		found := len(rep.Damage) > 0
		if found && !slices.ContainsFunc(rep.Damage, func(d inspect.Damage) bool { return d.File == name && d.Offset <= off }) {
			t.Errorf("%s is not named: %+v", where, rep.Damage)
		}
		lost := openDamaged(t, img, want, where)
		if lost > 0 && !found || lost > 1 {
			t.Errorf("%s costs %d messages, and check says %+v", where, lost, rep.Damage)
		}
		if !found {
			missed++ // unused room
		}
		exported := 0
		if _, err := inspect.Export(img, "/data", "/out"); err != nil {
			t.Fatalf("%s: export: %v", where, err)
		}
		for id, text := range want {
			if _, err := img.Stat("/out/" + id.String() + ".eml"); err == nil && read(t, img, "/out/"+id.String()+".eml") == string(text) {
				exported++
			}
		}
		if exported < len(want)-1 {
			t.Errorf("%s: %d of %d messages are exported whole", where, exported, len(want))
		}
	}
	t.Logf("%d of %d flips were of no consequence", missed, flips)
}

// openDamaged opens a spool and counts the messages that are not there whole.
func openDamaged(t *testing.T, img *vfs.Mem, want map[mail.ID][]byte, where string) (lost int) {
	t.Helper()
	again := img.CrashImage(1)
	s, _, err := spool.Open(options(again))
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	for id, text := range want {
		m, ok := s.Find(id)
		if !ok {
			lost++
			continue
		}
		r, err := s.Content(m).Open()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil {
			if d := (*spool.DamageError)(nil); !errors.As(err, &d) {
				t.Errorf("%s: content of %s: %v", where, id, err)
			}
			lost++
		} else if !bytes.Equal(got, text) {
			t.Errorf("%s: content of %s is wrong", where, id)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return lost
}

func TestLostFormat(t *testing.T) {
	mem, want := store(t, 10, true)
	if err := mem.Remove("/data/format"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := spool.Open(options(mem)); err == nil || !strings.Contains(err.Error(), "format") {
		t.Errorf("opening without format: %v", err)
	}
	if rep, err := inspect.Export(mem, "/data", "/out"); err != nil || len(rep.Damage) == 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	for id, text := range want {
		if got := read(t, mem, "/out/"+id.String()+".eml"); got != string(text) {
			t.Errorf("message %s is not exported whole", id)
		}
	}
}
