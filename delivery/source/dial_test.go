package source_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery/source"
)

func TestDial(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, from := range []string{"127.0.0.2", "127.0.0.3"} {
		s := source.Source{Name: "out", Addr: netip.MustParseAddr(from)}
		if err := s.Check(); err != nil {
			t.Skipf("this machine has no more of 127.0.0.0/8: %v", err)
		}
		conn, err := s.Dial(ctx, "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if at := got.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); at != s.Addr {
			t.Errorf("from %v: the host saw %v", s.Addr, at)
		}
		conn.Close()
		got.Close()
	}
}

// An address that the machine does not have is no fault of the host, and a host
// that does not answer none of the address.
func TestDialWithoutAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	away := source.Source{Name: "out1", Addr: netip.MustParseAddr("192.0.2.77")}
	if err := away.Check(); !errors.Is(err, source.ErrAddress) {
		t.Errorf("check: %v", err)
	}
	if _, err := away.Dial(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, source.ErrAddress) {
		t.Errorf("from an address that is not there: %v", err)
	}
	here := source.Source{Name: "lo", Addr: netip.MustParseAddr("127.0.0.1")}
	if _, err := here.Dial(t.Context(), "tcp", l.Addr().String()); err == nil || errors.Is(err, source.ErrAddress) {
		t.Errorf("to a closed port: %v", err)
	}
}
