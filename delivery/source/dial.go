package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// ErrAddress says that this machine does not have the address of a source.
var ErrAddress = errors.New("no address of this machine")

// addressNoPort is IP_BIND_ADDRESS_NO_PORT of Linux: the port is chosen when
// it is known where to, so that each destination may use all ports. Without it
// one address has no more connections than ports, all destinations together.
const addressNoPort = 24

// Dial connects from the source. The error is ErrAddress where that is not to
// be had.
func (s Source) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{}
	if s.Addr.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.Addr, 0))
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, addressNoPort, 1) // an old kernel does without
			})
		}
	}
	conn, err := d.DialContext(ctx, network, addr)
	var call *os.SyscallError
	if errors.As(err, &call) && call.Syscall == "bind" && !errors.Is(err, syscall.EADDRINUSE) {
		err = s.missing(err)
	}
	return conn, err
}

// Check tells whether this machine has the address of the source now: the
// error is ErrAddress if not.
func (s Source) Check() error {
	if !s.Addr.IsValid() {
		return nil
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.Addr, 0)))
	if err != nil {
		return s.missing(err)
	}
	return l.Close()
}

func (s Source) missing(err error) error {
	return fmt.Errorf("source %s: %s is %w: %w", s.Name, s.Addr, ErrAddress, err)
}
