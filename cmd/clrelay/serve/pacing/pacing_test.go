package pacing

import (
	"context"
	"testing"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/allow"
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/delivery/queue/sched/turns"
	"github.com/clrelay/clrelay/delivery/returns"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/mail"
)

type never struct{}

func (never) ByDomain(string) bool { return false }

func (never) Admit(context.Context, *mail.NextHop, *delivery.Attempt) *allow.Denied {
	return &allow.Denied{Limit: "never"}
}

// TestReturnsAreNotLimited: what stays here asks no limit of what goes out.
func TestReturnsAreNotLimited(t *testing.T) {
	l := Limits{never{}}
	if d := l.Admit(t.Context(), &mail.NextHop{Key: returns.Lane + "x"}, nil); d != nil {
		t.Errorf("a return path was kept: %v", d)
	}
	if d := l.Admit(t.Context(), &mail.NextHop{Key: "mx:example.org"}, nil); d == nil {
		t.Error("mail that goes out asked nobody")
	}
}

// TestClass: a message has the class of its client's entry; one whose client
// is in none, or whose entry is gone, is normal.
func TestClass(t *testing.T) {
	c := &config.Cluster{Senders: []config.Sender{
		{Name: "shop", Class: config.ClassTransactional}, {Name: "news", Class: config.ClassBulk}, {Name: "staff", Class: config.ClassNormal},
	}}
	for name, want := range map[string]sched.Class{
		"shop": turns.Transactional, "news": turns.Bulk, "staff": turns.Normal, "": turns.Normal, "gone": turns.Normal,
	} {
		if got := Class(c, name); got != want {
			t.Errorf("%q is %d, want %d", name, got, want)
		}
	}
}
