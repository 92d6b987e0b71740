package spool_test

import (
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
)

// TestHeldBySender: what its sender wants held is held from the first moment
// on, after a crash too, and no start takes it for one that may have been
// delivered. An operator's word counts more.
func TestHeldBySender(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	mem := vfs.NewMem()
	o := options(mem)
	o.Now, o.Boot = func() time.Time { return now }, "boot 1"
	s, _ := open(t, o)
	env := envelope(3)
	env.Hold = now.Add(time.Hour + 250*time.Millisecond)
	env.By = mail.By{At: now.Add(2 * time.Hour), Return: true}
	m := accept(t, s, env, content(1, 300_000))
	one := envelope(1)
	one.Hold = now.Add(time.Hour)
	accept(t, s, one, nil)
	wantHeld := func(s *spool.Spool, m *spool.Message, state mail.State, next time.Time) {
		t.Helper()
		st, err := s.States(m)
		if err != nil {
			t.Fatal(err)
		}
		for i := range st {
			want, at := mail.StateHeld, now.Add(time.Hour+time.Second) // never early
			if i == 1 {
				want, at = state, next
			}
			if st[i].State != want || !st[i].Next.Equal(at) {
				t.Errorf("recipient %d is %v until %v; want %v until %v", i, st[i].State, st[i].Next, want, at)
			}
		}
	}
	wantHeld(s, m, mail.StateHeld, now.Add(time.Hour+time.Second))
	if err := s.SettleDurable(m, []spool.Result{{Recipient: 1, State: mail.StateActive}}); err != nil {
		t.Fatal(err)
	}
	wantHeld(s, m, mail.StateActive, time.Time{})
	img := mem.CrashImage(1)
	closeSpool(t, s)

	o.FS, o.Boot = img, "boot 2"
	s, rec := open(t, o)
	if rec.PossibleDuplicates != 1 || rec.Recipients != 4 {
		t.Errorf("%+v: only the one that was released can have been delivered", rec)
	}
	seen := 0
	err := s.Each(func(m *spool.Message, got *mail.Envelope, st []spool.RecipientState) {
		seen++
		if len(st) == 1 {
			if st[0].State != mail.StateHeld || !st[0].Next.Equal(one.Hold) {
				t.Errorf("%+v", st[0])
			}
			return
		}
		wantHeld(s, m, mail.StateActive, time.Time{})
		if !got.Hold.Equal(env.Hold) || got.By != (mail.By{At: time.UnixMilli(env.By.At.UnixMilli()), Return: true}) {
			t.Errorf("held until %v, by %v", got.Hold, got.By)
		}
	})
	if err != nil || seen != 2 {
		t.Errorf("%d messages, %v", seen, err)
	}
	closeSpool(t, s)
}
