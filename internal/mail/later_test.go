package mail_test

import (
	"errors"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

func TestHold(t *testing.T) {
	for in, want := range map[string]time.Duration{"1": time.Second, "86400": 24 * time.Hour, "007": 7 * time.Second, "999999999": 999_999_999 * time.Second} {
		if got, err := mail.ParseHoldFor(in); got != want || err != nil {
			t.Errorf("HOLDFOR=%s: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "0", "-1", "+1", "1.5", "1s", " 1", "1000000000", "99999999999999999999", "٣"} {
		if got, err := mail.ParseHoldFor(in); !errors.Is(err, mail.ErrParam) {
			t.Errorf("HOLDFOR=%s: %v, %v", in, got, err)
		}
	}
	want := time.Date(2030, 1, 31, 8, 0, 0, 0, time.UTC)
	for _, in := range []string{"2030-01-31T08:00:00Z", "2030-01-31t08:00:00z", "2030-01-31T09:30:00+01:30", "2030-01-31T08:00:00.000Z"} {
		if got, err := mail.ParseHoldUntil(in); !got.Equal(want) || err != nil {
			t.Errorf("HOLDUNTIL=%s: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "2030-01-31", "2030-01-31T08:00:00", "2030-02-31T08:00:00Z", "2030-01-31 08:00:00Z", "1900000000", "2030-01-31T08:00:00.00000000000000000000000000000Z"} {
		if got, err := mail.ParseHoldUntil(in); !errors.Is(err, mail.ErrParam) {
			t.Errorf("HOLDUNTIL=%s: %v, %v", in, got, err)
		}
	}
}

func TestBy(t *testing.T) {
	now := time.Date(2030, 1, 31, 8, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		in  string
		by  mail.By
		out string // a minute later
	}{
		{"120;R", mail.By{At: now.Add(2 * time.Minute), Return: true}, "60;R"},
		{"+120;rt", mail.By{At: now.Add(2 * time.Minute), Return: true, Trace: true}, "60;RT"},
		{"120;N", mail.By{At: now.Add(2 * time.Minute)}, "60;N"},
		{"-10;NT", mail.By{At: now.Add(-10 * time.Second), Trace: true}, "-70;NT"},
		{"0;N", mail.By{At: now}, "-60;N"},
		{"30;R", mail.By{At: now.Add(30 * time.Second), Return: true}, "1;R"}, // never what nobody takes
		{"-999999999;N", mail.By{At: now.Add(-999_999_999 * time.Second)}, "-999999999;N"},
	} {
		by, err := mail.ParseBy(c.in, now)
		if by != c.by || err != nil {
			t.Errorf("BY=%s: %v, %v", c.in, by, err)
		}
		if got := by.Value(now.Add(time.Minute)); got != c.out {
			t.Errorf("BY=%s: passed on as %s", c.in, got)
		}
	}
	for _, in := range []string{"", ";", ";R", "5", "5;", "5;X", "5;TR", "0;R", "-5;R", "--5;N", "+-5;N", "5;R;T", "1000000000;N", "5 ;R", "-;N"} {
		if by, err := mail.ParseBy(in, now); !errors.Is(err, mail.ErrParam) {
			t.Errorf("BY=%s: %v, %v", in, by, err)
		}
	}
	if (mail.By{}).Value(now) != "" {
		t.Error("there is nothing to say")
	}
}
