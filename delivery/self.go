package delivery

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// localFor is how long the addresses of this machine are taken for unchanged.
const localFor = 30 * time.Second

// self knows which hosts are this relay.
type self struct {
	hostname  string
	listeners []netip.AddrPort

	mu    sync.Mutex
	local []netip.Addr
	asked time.Time
}

func newSelf(hostname string, listeners []netip.AddrPort) *self {
	s := &self{hostname: hostname}
	for _, l := range listeners {
		s.listeners = append(s.listeners, netip.AddrPortFrom(l.Addr().Unmap(), l.Port()))
	}
	return s
}

// is tells whether a listener of ours stands behind the address. Only the
// address and port count: another port of this machine is somebody else.
func (s *self) is(a netip.AddrPort) bool {
	ip := a.Addr().Unmap().WithZone("")
	for _, l := range s.listeners {
		if l.Port() != a.Port() {
			continue
		}
		if l.Addr() == ip {
			return true
		}
		// 0.0.0.0 and :: as a destination reach this machine too.
		if ip.IsUnspecified() && (l.Addr().IsLoopback() || l.Addr().IsUnspecified()) {
			return true
		}
		if l.Addr().IsUnspecified() && (ip.IsLoopback() || s.isLocal(ip)) {
			return true
		}
	}
	return false
}

// named tells whether a host is this relay by its name: in an MX set it need
// not be resolved then.
func (s *self) named(name string, port uint16) bool {
	return strings.EqualFold(name, s.hostname) &&
		slices.ContainsFunc(s.listeners, func(l netip.AddrPort) bool { return l.Port() == port })
}

func (s *self) isLocal(ip netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.asked.IsZero() || now.Sub(s.asked) > localFor {
		s.asked = now
		if addrs, err := net.InterfaceAddrs(); err == nil { // else the old ones are as good as any
			s.local = s.local[:0]
			for _, a := range addrs {
				if p, err := netip.ParsePrefix(a.String()); err == nil {
					s.local = append(s.local, p.Addr().Unmap().WithZone(""))
				}
			}
		}
	}
	return slices.Contains(s.local, ip)
}
