package local

import (
	"time"

	"github.com/clrelay/clrelay/internal/limit/local/bucket"
)

// slots is a node's part of connections at a time.
type slots struct {
	own     uint32 // units
	shared  bool
	may     int // connections
	held    []*hold
	refused uint32        // since the last Demands
	sought  uint32        // refused between two of the last Demands
	lacked  time.Duration // when one was refused last; 0: not lately
}

// lacks tells whether somebody still waits for a connection: who was refused
// asks again within bucket.NoPart, which is longer than from one report to the next.
func (c *slots) lacks(now time.Duration) bool {
	switch {
	case c.lacked == 0 || now-c.lacked > 2*bucket.NoPart:
		c.sought, c.lacked = 0, 0
	case c.refused > 0:
		c.sought = c.refused
	}
	c.refused = 0
	return c.lacked > 0
}

// forget ends all wishes: the limit is not about connections any more.
func (c *slots) forget() { c.shared, c.refused, c.sought, c.lacked = false, 0, 0, 0 }

// over tells whether more are open than the part.
func (c *slots) over() bool { return len(c.held) > c.may }

func (c *slots) give(r *rule, own uint32) {
	c.own = own
	c.may = 0
	if r.connUnits > 0 {
		c.may = int(int64(r.Connections) * int64(own) / int64(r.connUnits))
	}
}

// units is how many of them n connections take.
func (r *rule) units(n int) uint32 {
	if r.Connections == 0 {
		return 0
	}
	return uint32((int64(n)*int64(r.connUnits) + int64(r.Connections) - 1) / int64(r.Connections))
}
