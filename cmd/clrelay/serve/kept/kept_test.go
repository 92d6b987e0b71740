package kept

import (
	"strings"
	"testing"

	"github.com/clrelay/clrelay/internal/config"
)

func node(t *testing.T, c *config.Membership) *config.Node {
	n := &config.Node{Cluster: c}
	n.DataDir = config.Path(t.TempDir())
	return n
}

// What was kept last is what the next start has.
func TestKeepAndRecall(t *testing.T) {
	n := node(t, &config.Membership{})
	if c, err := Recall(n); c != nil || err != nil {
		t.Fatalf("before anything was kept: %v, %v", c, err)
	}
	for _, reserve := range []string{"1GiB", "3GiB"} {
		if err := Keep(n, []byte("spool: {reserve: "+reserve+"}\n")); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Recall(n)
	if err != nil || c == nil || c.Spool.Reserve != 3<<30 {
		t.Fatalf("%+v, %v", c, err)
	}
}

// What does not fit any more is said, and does not keep the node from starting.
func TestKeptDoesNotFit(t *testing.T) {
	n := node(t, &config.Membership{})
	if err := Keep(n, []byte("spool: {reserve: 1GiB}\nno_such_section: 1\n")); err != nil {
		t.Fatal(err)
	}
	c, err := Recall(n)
	if c != nil || err != nil || len(n.Warnings) != 1 || !strings.Contains(n.Warnings[0].Error(), "no_such_section") {
		t.Errorf("%v, %v, warnings %v", c, err, n.Warnings)
	}
}

// A relay that is alone reads its own file.
func TestAlone(t *testing.T) {
	n := node(t, nil)
	if err := Keep(n, []byte("spool: {reserve: 1GiB}\n")); err != nil {
		t.Fatal(err)
	}
	if c, err := Recall(n); c != nil || err != nil {
		t.Errorf("%v, %v", c, err)
	}
}
