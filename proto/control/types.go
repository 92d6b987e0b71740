package control

import (
	"encoding/hex"
	"fmt"
	"time"
)

// Bounds of what a State holds. A command that would go beyond one is refused
// with LimitReached.
const (
	MaxOps        = 1000    // segment operations, or renewals, a command
	MaxMembers    = 8       // members a segment
	MaxOpen       = 1000    // OPEN segments an owner: bounds what a Register touches
	MaxSegments   = 1 << 20 // segments in all
	MaxWrittenOff = 1 << 16 // segments that were written off and may turn up
	MaxNodes      = 1024    // nodes the cluster remembers
	MaxCommand    = 1 << 20 // octets of an encoded command
	MaxText       = 256     // octets of a name, an address, a version, a zone
	MaxConfigText = 1 << 18 // octets of a cluster configuration
	MaxReason     = 1 << 10 // octets of a configuration's author or reason
	KeepConfigs   = 20      // configuration versions kept
)

// Bounds of the grace period.
const (
	MinG = time.Second
	MaxG = time.Minute
)

// StoreID is the random identity of a data_dir, written when it is formatted.
type StoreID [16]byte

func (s StoreID) String() string { return hex.EncodeToString(s[:]) }

// Ref is the identity of data: a node's name and the store it lay in. The same
// node with another store is somebody else.
type Ref struct {
	Node  string
	Store StoreID
}

func (r Ref) String() string { return r.Node + "/" + hex.EncodeToString(r.Store[:4]) }

// SegmentID names a segment: 1<<63 | Session<<24 | n. Ids below 1<<63 are the
// local segments of a single machine and never appear in a State.
type SegmentID uint64

// MakeSegmentID returns the id of the n-th segment opened by a session, n from
// 1 to MaxSegmentN.
func MakeSegmentID(s Session, n uint32) SegmentID {
	return SegmentID(1<<63 | uint64(s)<<24 | uint64(n&MaxSegmentN))
}

// MaxSegmentN is the highest n of a session's segments.
const MaxSegmentN = 1<<24 - 1

// Replicated says whether the id is one that was opened through Raft.
func (id SegmentID) Replicated() bool { return id>>63 == 1 }

// Session returns the session that opened the segment.
func (id SegmentID) Session() Session { return Session(id &^ (1 << 63) >> 24) }

// N returns the number of the segment within its session.
func (id SegmentID) N() uint32 { return uint32(id & MaxSegmentN) }

func (id SegmentID) String() string {
	if !id.Replicated() {
		return fmt.Sprintf("local-%d", uint64(id))
	}
	return fmt.Sprintf("%s-%d", id.Session(), id.N())
}

// ParseSegmentID reads what String makes of a replicated segment's id.
func ParseSegmentID(text string) (id SegmentID, ok bool) {
	var generation, session, n uint32
	if _, err := fmt.Sscanf(text, "%d.%d-%d", &generation, &session, &n); err != nil || generation > MaxGeneration {
		return 0, false
	}
	id = MakeSegmentID(Session(generation)<<24|Session(session), n)
	return id, id.String() == text
}

// Epoch is generation<<32 | number: a segment's configuration number. 0 is no
// epoch.
type Epoch uint64

// Generation returns the generation the epoch belongs to.
func (e Epoch) Generation() uint32 { return uint32(e >> 32) }

func (e Epoch) String() string { return fmt.Sprintf("%d.%d", e>>32, uint32(e)) }

// Session is generation<<24 | number, at most 39 bits: given by Register to
// one process of a node, unique over the life of the cluster. 0 is none.
type Session uint64

// MaxGeneration is the highest generation that fits a session.
const MaxGeneration = 1<<15 - 1

// Generation returns the generation the session was given in.
func (s Session) Generation() uint32 { return uint32(s >> 24) }

func (s Session) String() string { return fmt.Sprintf("%d.%d", s>>24, s&(1<<24-1)) }

// SegmentState is where a segment stands. There is no state for a segment
// that is gone: its record is.
type SegmentState uint8

// The states of a segment.
const (
	Open       SegmentState = 1 + iota // takes messages
	Recovering                         // taken over; the owner is finding the end; nobody delivers
	Sealed                             // End is set; takes results alone
)

func (s SegmentState) String() string {
	switch s {
	case Open:
		return "open"
	case Recovering:
		return "recovering"
	case Sealed:
		return "sealed"
	}
	return fmt.Sprintf("segment state %d", uint8(s))
}

// Segment is the record of one segment. The slices belong to the State and are
// never written again: a reader may keep them, and must not write them.
type Segment struct {
	ID      SegmentID
	Epoch   Epoch
	Owner   Ref // one of Members
	Members []Ref
	Stale   []Ref // some of Members; the owner is not among them but while Recovering
	State   SegmentState
	End     uint64 // nothing above it counts; never changes once EndSet
	EndSet  bool
}

// IsMember says whether r holds a copy.
func (g *Segment) IsMember(r Ref) bool { return contains(g.Members, r) }

// IsStale says whether r is a member that may lack results or hold records
// that were never acknowledged.
func (g *Segment) IsStale(r Ref) bool { return contains(g.Stale, r) }

// IsFresh says whether r is a member that is not stale.
func (g *Segment) IsFresh(r Ref) bool { return contains(g.Members, r) && !contains(g.Stale, r) }

// Sound says whether the record keeps the rules that every record keeps.
func (g *Segment) Sound() bool {
	for _, r := range g.Stale {
		if !g.IsMember(r) || r == g.Owner && g.State != Recovering {
			return false
		}
	}
	return g.ID.Replicated() && g.Epoch != 0 && g.IsMember(g.Owner) && !Repeats(g.Members) && !Repeats(g.Stale) &&
		(g.State != Open || !g.EndSet) && (g.State != Sealed || g.EndSet) && (g.EndSet || g.End == 0)
}

// contains says whether r is in the list.
func contains(list []Ref, r Ref) bool {
	for i := range list {
		if list[i].Store == r.Store && list[i].Node == r.Node {
			return true
		}
	}
	return false
}

// Repeats says whether a Ref is in the list twice.
func Repeats(list []Ref) bool {
	for i := range list {
		if contains(list[:i], list[i]) {
			return true
		}
	}
	return false
}

// With returns the list and r, as a new one: readers keep the old one.
func With(list []Ref, r Ref) []Ref {
	out := make([]Ref, len(list), len(list)+1)
	copy(out, list)
	return append(out, r)
}

// Without returns the list without r, as a new one; nil if nothing is left.
func Without(list []Ref, r Ref) []Ref {
	out := make([]Ref, 0, len(list))
	for _, m := range list {
		if m != r {
			out = append(out, m)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// NodeState is what the operator wants of a node. Whether it lives is not
// among them: that is a matter of leases.
type NodeState uint8

// The states of a node.
const (
	Alive    NodeState = 1 + iota // takes part
	Draining                      // is giving away what it holds
	Drained                       // holds nothing; in the cluster until Resume or Remove
	Removed                       // out; comes back with a new store alone
)

func (s NodeState) String() string {
	switch s {
	case Alive:
		return "alive"
	case Draining:
		return "draining"
	case Drained:
		return "drained"
	case Removed:
		return "removed"
	}
	return fmt.Sprintf("node state %d", uint8(s))
}

// NodeInfo is what a process says about itself when it registers.
type NodeInfo struct {
	Address   string // host:port of the one port between nodes
	SMTP      string // host:port where clients come in
	Zone      string // empty: none
	Version   string // of the program
	Features  uint32 // highest feature level the program knows
	BootID    string // of the running kernel
	MachineID string // of the host
}

// Lease is what the log says about a session's lease. The node itself holds it
// until 0.8 G after it sent beacon number Beacon; everybody else counts G from
// the moment that entry Renewed was applied. G never falls while a session
// lasts: a node that has not heard of a lower one yet would hold its lease for
// longer than the others wait.
type Lease struct {
	Session Session       // 0: none registered in this generation
	Renewed uint64        // index of the last Renew, or of the Register (or the new generation) before there was one
	Beacon  uint64        // of the last Renew; 0: never renewed
	G       time.Duration // in force at that entry, or earlier in the session if it was higher
}

// Node is the record of one node.
type Node struct {
	Name  string
	Store StoreID // of the current session
	State NodeState
	Lost  bool // the operator says that Store is gone for good
	Lease Lease
	Info  NodeInfo
	// Waits is not 0 where an older process of this name may still hold a
	// lease: the index of its last Renew. The first Renew of the current
	// session may be proposed only WaitsG after that entry was applied.
	Waits  uint64
	WaitsG time.Duration
	// Opened is the highest n among the segments that the session opened.
	Opened uint32
	// Inventoried says that in this generation the node has told all it holds.
	Inventoried bool
	// Former are the stores this node had before that still own segments,
	// with the lease of the last session of each.
	Former []Former
}

// Ref returns the node's present identity.
func (n *Node) Ref() Ref { return Ref{n.Name, n.Store} }

// Former is a store that a node had before.
type Former struct {
	Store StoreID
	Lease Lease
}

// Settings are the numbers every node must agree about.
type Settings struct {
	Version          uint64        // 1 at first; raised by each change
	Copies           int           // members of a new segment, 1 to MaxMembers
	G                time.Duration // grace period; a lease holds 0.8 of it
	RereplicateAfter time.Duration // how long a dead node's copies are not made anew
	UncleanAfter     time.Duration // how long a segment waits for a fresh member before a stale one takes over
}

// Valid says whether the numbers make sense.
func (t Settings) Valid() bool {
	return t.Copies >= 1 && t.Copies <= MaxMembers &&
		t.G >= MinG && t.G <= MaxG &&
		t.RereplicateAfter >= 0 && t.UncleanAfter >= 0
}

// Config is one version of the cluster's configuration.
type Config struct {
	Version uint64 // from 1
	Text    []byte
	Author  string
	Reason  string
	At      time.Time // as the proposer's clock said, in milliseconds
}
