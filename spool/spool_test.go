package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
)

// options are those of a small spool in memory.
func options(fs vfs.FS) spool.Options {
	return spool.Options{
		FS: fs, Dir: "/data", Node: "mx1", FileSize: 256 << 10, Boot: "boot 1", Reserve: 1,
		SyncEvery: time.Millisecond, HangLimit: time.Minute,
	}
}

func open(t testing.TB, o spool.Options) (*spool.Spool, *spool.Recovery) {
	t.Helper()
	if o.Fatal == nil {
		o.Fatal = func(err error) { t.Errorf("fatal: %v", err) }
	}
	s, rec, err := spool.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s, rec
}

func closeSpool(t testing.TB, s *spool.Spool) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func envelope(n int) *mail.Envelope {
	env := &mail.Envelope{
		ID: mail.NewID(time.Now()), From: mail.Address{Local: "from", Domain: "example.org"},
		Arrived: time.UnixMilli(time.Now().UnixMilli()), Client: mail.Client{Helo: "client.example", Protocol: "ESMTP"},
	}
	for i := range n {
		env.Recipients = append(env.Recipients, mail.Recipient{Addr: mail.Address{Local: fmt.Sprint("to", i), Domain: "example.edu"}})
	}
	return env
}

func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

func accept(t testing.TB, s *spool.Spool, env *mail.Envelope, body []byte) *spool.Message {
	t.Helper()
	m, err := s.Accept(context.Background(), env, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func wantContent(t testing.TB, s *spool.Spool, m *spool.Message, want []byte) {
	t.Helper()
	r, err := s.Content(m).Open()
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("reading the content: %v", err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("content differs: %d octets, want %d", len(got), len(want))
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r, _ = s.Content(m).Open()
	var buf bytes.Buffer
	if _, err := r.(io.WriterTo).WriteTo(&buf); err != nil || !bytes.Equal(buf.Bytes(), want) {
		t.Fatalf("WriteTo gives %d octets and %v", buf.Len(), err)
	}
	_ = r.Close()
}

func delivered(i int) spool.Result {
	return spool.Result{Recipient: i, State: mail.StateDelivered, Attempts: 1, Reply: mail.Reply{Code: 250}, Remote: "mx:25", At: time.UnixMilli(1000)}
}

func deferred(i int, next time.Time) spool.Result {
	return spool.Result{Recipient: i, State: mail.StateDeferred, Attempts: 1, Next: next, Reply: *mail.NewReply(451, "4.3.0", "later"), Remote: "mx:25", At: time.UnixMilli(1000)}
}

func TestLifeOfAMessage(t *testing.T) {
	mem := vfs.NewMem()
	var told atomic.Int32
	o := options(mem)
	o.Accepted = func(*spool.Message, *mail.Envelope) { told.Add(1) }
	s, _ := open(t, o)
	for _, size := range []int{0, 1, 5000, 16 << 10, 16<<10 + 1, 100_000, 128 << 10, 700_000} {
		env := envelope(3)
		body := content(uint64(size), size)
		m := accept(t, s, env, body)
		if m.Size() != int64(size) || m.Recipients() != 3 || m.ID() != env.ID || !m.Arrived().Equal(env.Arrived) {
			t.Errorf("message %+v", m)
		}
		wantContent(t, s, m, body)
		got, err := s.Envelope(m)
		if err != nil || !reflect.DeepEqual(got, env) {
			t.Errorf("envelope %+v %v", got, err)
		}
		next := time.UnixMilli(1_900_000_000_500)
		if err := s.Attempt(m, []int{0, 1, 2}).Wait(); err != nil {
			t.Fatal(err)
		}
		if err := s.Settle(m, []spool.Result{delivered(0), deferred(2, next)}); err != nil {
			t.Fatal(err)
		}
		st, err := s.States(m)
		if err != nil {
			t.Fatal(err)
		}
		if st[0].State != mail.StateDelivered || st[1].State != mail.StateActive || st[2].State != mail.StateDeferred ||
			!st[2].Next.Equal(next) || st[2].Reply.Text != "later" || st[2].Remote != "mx:25" || st[2].Version != 1 {
			t.Errorf("states %+v", st)
		}
		if _, ok := s.Find(env.ID); !ok {
			t.Error("not found")
		}
		if err := s.SettleDurable(m, []spool.Result{delivered(1), delivered(2)}); err != nil {
			t.Fatal(err)
		}
		if _, ok := s.Find(env.ID); ok {
			t.Error("found although it is finished")
		}
		if err := s.Settle(m, []spool.Result{delivered(1)}); !errors.Is(err, spool.ErrFinished) {
			t.Errorf("settling a finished message: %v", err)
		}
	}
	if told.Load() != 8 {
		t.Errorf("told of %d messages", told.Load())
	}
	if st := s.Stats(); st.Messages != 0 || st.Accepted != 8 || st.Finished != 8 || st.LiveBytes > 4096 {
		t.Errorf("%+v", st)
	}
	closeSpool(t, s)
}

func TestRestart(t *testing.T) {
	mem := vfs.NewMem()
	s, _ := open(t, options(mem))
	bodies := map[mail.ID][]byte{}
	envs := map[mail.ID]*mail.Envelope{}
	next := time.Unix(1_900_000_000, 0)
	for i := range 50 {
		env := envelope(1 + i%3)
		body := content(uint64(i), 100+i*i*100)
		m := accept(t, s, env, body)
		switch i % 5 {
		case 0:
			for r := range env.Recipients {
				if err := s.Settle(m, []spool.Result{delivered(r)}); err != nil {
					t.Fatal(err)
				}
			}
			continue
		case 1:
			if err := s.Settle(m, []spool.Result{deferred(0, next)}); err != nil {
				t.Fatal(err)
			}
		}
		bodies[env.ID], envs[env.ID] = body, env
	}
	closeSpool(t, s)
	for range 2 {
		s, rec := open(t, options(mem))
		if rec.Messages != len(bodies) || rec.PossibleDuplicates != 0 || len(rec.Damage) > 0 {
			t.Errorf("recovery %+v, want %d messages", rec, len(bodies))
		}
		seen := 0
		err := s.Each(func(m *spool.Message, env *mail.Envelope, st []spool.RecipientState) {
			seen++
			if !reflect.DeepEqual(env, envs[m.ID()]) || len(st) != m.Recipients() {
				t.Errorf("envelope %+v\nwant %+v", env, envs[m.ID()])
			}
		})
		if err != nil || seen != len(bodies) {
			t.Errorf("saw %d of %d: %v", seen, len(bodies), err)
		}
		for id, body := range bodies {
			m, ok := s.Find(id)
			if !ok {
				t.Fatalf("message %s is lost", id)
			}
			wantContent(t, s, m, body)
		}
		closeSpool(t, s)
	}
}

func TestContentErrorKeepsNothing(t *testing.T) {
	mem := vfs.NewMem()
	s, _ := open(t, options(mem))
	broken := errors.New("client gone")
	for _, size := range []int{10, 100_000, 600_000} {
		_, err := s.Accept(context.Background(), envelope(1), io.MultiReader(bytes.NewReader(content(1, size)), iotest.ErrReader(broken)))
		if err != broken {
			t.Errorf("got %v", err)
		}
	}
	if st := s.Stats(); st.Messages != 0 || st.LiveBytes > 4096 {
		t.Errorf("%+v", st)
	}
	closeSpool(t, s)
	s, rec := open(t, options(mem))
	if rec.Messages != 0 {
		t.Errorf("%+v", rec)
	}
	closeSpool(t, s)
}
