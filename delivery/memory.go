package delivery

import (
	"net/netip"
	"sync"
	"time"
)

// memory is a set of addresses that forgets each after a while. It is bounded:
// a full one forgets what is old, and then anything, before it takes more.
type memory struct {
	keep time.Duration
	size int

	mu    sync.Mutex
	until map[netip.AddrPort]time.Time
}

func newMemory(keep time.Duration, size int) *memory {
	return &memory{keep: keep, size: size, until: map[netip.AddrPort]time.Time{}}
}

func (m *memory) has(a netip.AddrPort) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.until) == 0 {
		return false
	}
	t, ok := m.until[a]
	if ok && !time.Now().Before(t) {
		delete(m.until, a)
		return false
	}
	return ok
}

func (m *memory) add(a netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if len(m.until) >= m.size {
		for k, t := range m.until {
			if !now.Before(t) || len(m.until) >= m.size {
				delete(m.until, k)
			}
		}
	}
	m.until[a] = now.Add(m.keep)
}

func (m *memory) remove(a netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.until, a)
}
