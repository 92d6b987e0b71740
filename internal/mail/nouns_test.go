package mail_test

import (
	"errors"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

func TestID(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC)
	var ids []string
	for i := range 5 {
		at := now.Add(time.Duration(i) * time.Millisecond)
		id := mail.NewID(at)
		if got := id.Time(); !got.Equal(at.Truncate(time.Millisecond)) {
			t.Errorf("time of the ID %v, want %v", got, at)
		}
		s := id.String()
		if len(s) != mail.IDLen {
			t.Errorf("%q has %d characters", s, len(s))
		}
		ids = append(ids, s)
		for _, in := range []string{s, strings.ToLower(s)} {
			if again, err := mail.ParseID(in); err != nil || again != id {
				t.Errorf("%q is read as %v, %v", in, again, err)
			}
		}
		if id.IsZero() || mail.NewID(at) == id {
			t.Errorf("ID %v is not unique", id)
		}
	}
	if !sort.StringsAreSorted(ids) {
		t.Errorf("printed IDs do not sort by time: %v", ids)
	}
	if !(mail.ID{}).IsZero() {
		t.Error("the zero ID names something")
	}
	s := ids[0]
	for _, in := range []string{"", s[1:], s + "0", s[:25] + "U", s[:25] + "I", s[:25] + "-", s[:25] + "\n", "\r" + s[1:], "Z" + s[1:25] + "Z"} {
		if id, err := mail.ParseID(in); !errors.Is(err, mail.ErrBadID) || !id.IsZero() {
			t.Errorf("%q is read as %v, %v", in, id, err)
		}
	}
}

func TestReply(t *testing.T) {
	cause := errors.New("connection reset")
	r := mail.NewReply(451, "4.4.2", "try\nlater").WithCause(cause)
	if got := r.Error(); got != "451 4.4.2 try later (connection reset)" {
		t.Errorf("Error: %q", got)
	}
	if got := r.Line(); got != "451 4.4.2 try later" {
		t.Errorf("Line: %q", got)
	}
	if !errors.Is(r, cause) {
		t.Error("the cause is not unwrapped")
	}
	if got := mail.NewReply(250, "", "").Line(); got != "250" {
		t.Errorf("bare reply: %q", got)
	}
	for code, class := range map[int]string{200: "positive", 250: "positive", 354: "positive", 399: "positive", 400: "temporary", 499: "temporary", 500: "permanent", 599: "permanent", 600: "", 0: "", 199: ""} {
		r := mail.Reply{Code: code}
		for name, got := range map[string]bool{"positive": r.Positive(), "temporary": r.Temporary(), "permanent": r.Permanent()} {
			if got != (name == class) {
				t.Errorf("%d: %s is %t", code, name, got)
			}
		}
	}
}

func TestWithCauseLeavesTheOriginal(t *testing.T) {
	r := mail.NewReply(550, "5.1.1", "no such user")
	if r.WithCause(errors.New("x")); r.Cause != nil {
		t.Error("WithCause changed its receiver")
	}
}

func TestParseEnhancedCode(t *testing.T) {
	for in, want := range map[string]string{
		"2.0.0": "2.0.0", "5.7.1": "5.7.1", "4.999.999": "4.999.999",
		"": "", "5": "", "5.7": "", "5.7.1.1": "", "3.0.0": "", "5..1": "", "5.7.": "", "5.7.1000": "", "5.-1.0": "", "5.7.1 ": "", "55.7.1": "", ".7.1": "",
	} {
		if got := mail.ParseEnhancedCode(in).String(); got != want {
			t.Errorf("%q is read as %q", in, got)
		}
	}
}

func TestStates(t *testing.T) {
	for s, want := range map[mail.State]struct {
		word  string
		final bool
	}{
		mail.StateActive: {"active", false}, mail.StateDeferred: {"deferred", false}, mail.StateHeld: {"held", false},
		mail.StateDelivered: {"delivered", true}, mail.StateFailed: {"failed", true}, mail.StateDropped: {"dropped", true},
	} {
		if s.String() != want.word || s.Final() != want.final {
			t.Errorf("state %d: %s, final %t", s, s, s.Final())
		}
	}
	if got := mail.State(99).String(); got != "unknown" {
		t.Errorf("state 99: %s", got)
	}
}
