package who

import (
	"testing"

	"google.golang.org/grpc/peer"
)

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

// What is kept of a caller is his name: that of his process says nothing later.
func TestPerson(t *testing.T) {
	for uid, want := range map[int64]string{0: "root", 4_000_000_001: "uid=4000000001"} {
		ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: PeerInfo{UID: uid, PID: 4720}})
		c := Bindings(nil).Of(ctx)
		if got := c.Person(); got != want {
			t.Errorf("%d: %q, want %q", uid, got, want)
		}
	}
	if c := Bindings(nil).Of(t.Context()); c.Person() != "unknown" {
		t.Errorf("%q", c.Person())
	}
}
