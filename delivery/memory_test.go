package delivery

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(time.Minute, 10)
		at := func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 25)
		}
		m.add(at(1))
		if !m.has(at(1)) || m.has(at(2)) {
			t.Error("remembers the wrong one")
		}
		time.Sleep(time.Minute)
		if m.has(at(1)) {
			t.Error("remembers for too long")
		}
		m.add(at(1))
		m.remove(at(1))
		if m.has(at(1)) {
			t.Error("does not forget")
		}
		for i := range 100 {
			m.add(at(i))
			if len(m.until) > 10 || !m.has(at(i)) {
				t.Fatalf("%d entries after %d", len(m.until), i)
			}
		}
		time.Sleep(time.Minute)
		m.add(at(200))
		if len(m.until) != 1 {
			t.Errorf("%d entries, and nine are old", len(m.until)-1)
		}
	})
}
