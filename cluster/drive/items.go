package drive

import (
	"encoding/binary"
	"errors"
	"sync/atomic"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/replica"
	"github.com/clrelay/clrelay/spool"
)

// itemBeacon is the one kind of item that is not the core's: a node tells the
// leader of Raft that it lives. Seq is the beacon's number, Arg the session.
const itemBeacon uint8 = 200

// Beacon is the item that tells the leader of a session's n-th beacon.
func Beacon(session fsm.Session, n uint64) replica.Item {
	return replica.Item{Kind: itemBeacon, Seq: n, Arg: uint64(session)}
}

// A record travels as an item whose first part is a head of its own: the kind
// and, of eight octets, the number in the record's header.
const copyHead = 9

func copyOut(kind uint8, seq uint64, data [][]byte) [][]byte {
	head := make([]byte, copyHead)
	head[0] = kind
	binary.BigEndian.PutUint64(head[1:], seq)
	return append(append(make([][]byte, 0, len(data)+1), head), data...)
}

// errBadItem says that a node sent what cannot be read.
var errBadItem = errors.New("drive: malformed item")

func copyIn(it *replica.Item) (spool.Copy, error) {
	if len(it.Data) == 0 || len(it.Data[0]) != copyHead {
		return spool.Copy{}, errBadItem
	}
	head := it.Data[0]
	return spool.Copy{Kind: head[0], Seq: binary.BigEndian.Uint64(head[1:]), Data: it.Data[1:]}, nil
}

// batch is one frame's items, kept until nobody needs their bytes.
type batch struct {
	from  fsm.Ref
	frame *replica.Batch
	index []int // of the core's items within the frame
	users atomic.Int32
}

func (b *batch) hold() { b.users.Add(1) }

func (b *batch) release() {
	if b != nil && b.users.Add(-1) == 0 {
		b.frame.Release()
	}
}
