package who

import "testing"

func TestPeersThatMayUseTheSocket(t *testing.T) {
	for _, c := range []struct {
		uid, own int64
		want     bool
	}{{0, 0, true}, {0, 1000, true}, {1000, 1000, true}, {1000, 0, false}, {1001, 1000, false}, {-1, 1000, false}} {
		if got := mayUse(c.uid, c.own); got != c.want {
			t.Errorf("uid %d on a relay of uid %d: %v", c.uid, c.own, got)
		}
	}
}
