package later_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/later"
	"github.com/clrelay/clrelay/internal/mail"
	offers "github.com/clrelay/clrelay/smtpd/later"
)

func TestOffer(t *testing.T) {
	ours := netip.MustParseAddr("10.0.0.1")
	hold, level := 7*24*time.Hour, uint32(3)
	terms := later.Terms{
		Entry: func(a netip.Addr) string {
			if a == ours {
				return "office"
			}
			return ""
		},
		Longest: func() time.Duration { return hold },
	}
	us, other := &mail.Client{Addr: ours}, &mail.Client{Addr: netip.MustParseAddr("192.0.2.1")}
	want := func(c *mail.Client, o offers.Offer) {
		t.Helper()
		if got := terms.Offer(c); got != o {
			t.Errorf("%v is offered %+v, want %+v", c.Addr, got, o)
		}
	}
	want(us, offers.Offer{Hold: hold, By: true}) // on a single machine
	want(other, offers.Offer{})
	terms.Level = func() uint32 { return level }
	want(us, offers.Offer{Hold: hold, By: true, NotYet: true})
	level = 4
	want(us, offers.Offer{Hold: hold, By: true})
	hold = 0
	want(us, offers.Offer{By: true})
	if later.Level(nil) != nil {
		t.Error("a level without a cluster")
	}
}
