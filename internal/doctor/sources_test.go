package doctor

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestSources(t *testing.T) {
	out, other := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.99")
	for _, c := range []struct {
		name  string
		addr  netip.Addr
		err   error
		names []string
		addrs map[string]netip.Addr
		dns   error
		level Level
		says  string
	}{
		{"well", out, nil, []string{"out1.example.edu"}, map[string]netip.Addr{"out1.example.edu": out}, nil, OK, "192.0.2.10 is out1.example.edu, and back"},
		{"well by another name", out, nil, []string{"a.example."}, map[string]netip.Addr{"out1.example.edu": out, "a.example.": out}, nil, OK, "is a.example, and back"},
		{"not here", out, errors.New("cannot assign"), nil, nil, nil, Fail, "does not have the address"},
		{"no name", out, nil, nil, nil, nil, Warn, "has no name"},
		{"EHLO leads elsewhere", out, nil, []string{"a.example"}, map[string]netip.Addr{"a.example": out, "out1.example.edu": other}, nil, Warn, "EHLO says out1.example.edu"},
		{"EHLO leads nowhere", out, nil, []string{"a.example"}, map[string]netip.Addr{"a.example": out}, nil, Warn, "EHLO says out1.example.edu"},
		{"the name does not lead back", out, nil, []string{"a.example"}, map[string]netip.Addr{"a.example": other, "out1.example.edu": out}, nil, Warn, "a.example, does not lead back"},
		{"private", netip.MustParseAddr("10.0.0.1"), nil, nil, nil, nil, OK, "no public address"},
		{"loopback", netip.MustParseAddr("127.0.0.2"), nil, nil, nil, nil, OK, "no public address"},
		{"no answer", out, nil, nil, nil, errors.New("SERVFAIL"), Unknown, "SERVFAIL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, f := fine()
			w.names, w.addrs, w.dnsErr = map[netip.Addr][]string{c.addr: c.names}, c.addrs, c.dns
			f.Sources = []Source{{Name: "out1", Addr: c.addr, Hello: "out1.example.edu", Err: c.err}}
			for _, got := range w.examine(f, &Trend{}) {
				if got.Check != "sources" {
					continue
				}
				if got.Level != c.level || !strings.Contains(got.Text, c.says) || (got.Fix != "") != (c.level == Warn || c.level == Fail) {
					t.Errorf("%+v", got)
				}
				return
			}
			t.Error("nothing was found about it")
		})
	}
}
