package control

// Command is one of Register, Renew, SegmentOps, NodeChange, ConfigApply,
// SettingsApply, FeatureRaise, GenerationBump, RecordPut, AuditAppend, ShareOps,
// BudgetOps and SuppressOps.
type Command interface {
	// LeaderOnly says that only the leader of Raft may propose the command,
	// from what it applied itself: it is never taken over the network.
	LeaderOnly() bool
}

// Register starts a session: the process of a node that came up. Answered
// with Result.Session. The same nonce again is answered with the same session.
// OPEN segments of (Node, Store) become RECOVERING under their owner; those of
// another store of this node stay for Reassign.
type Register struct {
	Node  string
	Store StoreID
	Nonce [16]byte // random, made by the process
	Info  NodeInfo
}

// Renew renews leases: what the leader heard in the last half second. A
// renewal of a session that is not the newest of its node is passed over.
type Renew struct {
	Renewals []Renewal // at most MaxOps
}

// Renewal is the newest beacon heard of one node.
type Renewal struct {
	Node    string
	Session Session
	Beacon  uint64 // from 1
}

// SegmentOps changes up to MaxOps segments, each operation by itself: one may
// be refused and the next committed. Answered with Result.Ops, in order.
type SegmentOps struct {
	Ops []SegmentOp
}

// OpKind says what a SegmentOp does.
type OpKind uint8

// The operations. All but OpReassign and OpWriteOff are the owner's and carry
// its session in By; all but OpOpen and OpAdopt compare Epoch with the record's.
const (
	// OpOpen makes a segment: ID, By, Members (with the owner). ID must be of
	// session By with n above all that the session opened before.
	OpOpen OpKind = 1 + iota
	// OpSeal turns OPEN into SEALED: End.
	OpSeal
	// OpReassign gives the segment to Member and makes it RECOVERING. The
	// leader's. Silent and Renewed name the owner's session and the index of
	// its last renewal (see State.LeaseOf): refused if it has renewed since. Of a
	// RECOVERING segment neither is looked at: its owner delivers nothing,
	// and the leader waits G from the entry that made it RECOVERING. A stale
	// Member is refused unless Unclean.
	OpReassign
	// OpRecovered turns RECOVERING into SEALED: End (the old one where it is
	// set already) and Stale, the members that are stale from now on.
	OpRecovered
	// OpStale marks Member stale.
	OpStale
	// OpFresh marks Member fresh.
	OpFresh
	// OpAddMember makes Member a stale member of a SEALED segment.
	OpAddMember
	// OpRemoveMember takes Member from a SEALED segment; refused while fewer
	// than State.Copies fresh members would remain on nodes that are neither
	// removed nor lost.
	OpRemoveMember
	// OpTransfer makes the fresh member Member the owner of a SEALED segment.
	OpTransfer
	// OpGone forgets a SEALED segment.
	OpGone
	// OpAdopt brings back a segment of an older generation that the record
	// was lost of: By is the session of a node that holds it; Members, End
	// and EndSet as its own header says. It becomes RECOVERING under the
	// first who names it; who names it later joins its members as stale.
	// A segment that was written off is brought back by any of its members,
	// with the record that it had, whatever its generation.
	OpAdopt
	// OpWriteOff takes the record of a segment out of which no member's store
	// is left: each was replaced or declared lost, or its node removed. The
	// operator's. Refused if the owner has renewed its lease since index
	// Renewed: whoever proposes it waits G from there, so that nobody delivers
	// from the segment when it comes back. Feature level 2.
	OpWriteOff
)

// SegmentOp is one change of one segment.
type SegmentOp struct {
	Kind    OpKind
	ID      SegmentID
	Epoch   Epoch   // the record's before the change; 0 with OpOpen and OpAdopt
	By      Session // the owner's; 0 with OpReassign and OpWriteOff
	Member  Ref
	Members []Ref  // OpOpen, OpAdopt
	Stale   []Ref  // OpRecovered
	End     uint64 // OpSeal, OpRecovered, OpAdopt
	EndSet  bool   // OpAdopt
	Silent  Session
	Renewed uint64
	Unclean bool
}

// NodeVerb says what a NodeChange does.
type NodeVerb uint8

// The changes of a node.
const (
	// NodeDrain turns Alive into Draining; refused if fewer than State.Copies
	// nodes would remain Alive.
	NodeDrain NodeVerb = 1 + iota
	// NodeDrained turns Draining into Drained; refused while the node is a
	// member of any segment. By is the node's session.
	NodeDrained
	// NodeResume turns Draining or Drained into Alive.
	NodeResume
	// NodeRemove puts the node out. One that is not Drained needs Force, and
	// must not have renewed its lease since index Renewed.
	NodeRemove
	// NodeLost declares that Store, the node's, is gone for good. It must not
	// have renewed its lease since index Renewed.
	NodeLost
	// NodeInventoried says that the node has adopted all it holds. By is the
	// node's session.
	NodeInventoried
)

// NodeChange changes what is wanted of a node.
type NodeChange struct {
	Node    string
	Verb    NodeVerb
	By      Session
	Store   StoreID
	Renewed uint64
	Force   bool
}

// ConfigApply stores a new version of the cluster configuration, if the
// newest is still Version-1.
type ConfigApply struct {
	Config Config
}

// SettingsApply changes the settings, if their version is still
// Settings.Version-1.
type SettingsApply struct {
	Settings Settings
}

// FeatureRaise raises the feature level; refused until every node that is not
// removed announces it.
type FeatureRaise struct {
	Level uint32
}

// GenerationBump starts a new generation after a restored backup or a lost
// quorum: sessions end, ids jump, OPEN segments become RECOVERING, and nothing
// goes GONE until every node has sent its inventory.
type GenerationBump struct {
	Generation uint32 // above the present one, at most MaxGeneration
}

// LeaderOnly implements Command.
func (Register) LeaderOnly() bool { return false }

// LeaderOnly implements Command.
func (Renew) LeaderOnly() bool { return true }

// LeaderOnly implements Command: a batch with a Reassign in it is the leader's.
func (c SegmentOps) LeaderOnly() bool {
	for i := range c.Ops {
		if c.Ops[i].Kind == OpReassign {
			return true
		}
	}
	return false
}

// LeaderOnly implements Command.
func (NodeChange) LeaderOnly() bool { return false }

// LeaderOnly implements Command.
func (ConfigApply) LeaderOnly() bool { return false }

// LeaderOnly implements Command.
func (SettingsApply) LeaderOnly() bool { return false }

// LeaderOnly implements Command.
func (FeatureRaise) LeaderOnly() bool { return true }

// LeaderOnly implements Command.
func (GenerationBump) LeaderOnly() bool { return true }

// Code is the outcome of a command or of one of its operations. Codes are only
// ever added: their numbers are part of what nodes agree about.
type Code uint8

// The outcomes.
const (
	OK               Code = 0
	Malformed        Code = 1  // not a command, or one that breaks its own rules
	LevelTooLow      Code = 2  // needs a feature level that the cluster has not reached
	UnknownNode      Code = 3  // no such node, or another store of it
	UnknownSegment   Code = 4  // no such segment: gone, or never opened
	OldSession       Code = 5  // By is not the owner's newest session
	WrongEpoch       Code = 6  // the segment has changed since
	WrongState       Code = 7  // not a legal move from the present state
	NotMember        Code = 8  // Member is not a member, or not fresh where it must be
	AlreadyMember    Code = 9  // Member is one
	RenewedSince     Code = 10 // the session that is said to be silent has renewed its lease
	EndDiffers       Code = 11 // end is set already, to another value
	TooFewCopies     Code = 12 // not enough copies, or nodes, would remain
	WrongVersion     Code = 13 // the configuration or the settings have changed since
	LimitReached     Code = 14 // one of the Max bounds
	NodeNotAlive     Code = 15 // the node is draining, drained, removed or lost
	StaleID          Code = 16 // the session opened this id, or a higher one, before
	FeatureMissing   Code = 17 // a node does not know the feature level
	InventoryMissing Code = 18 // after a new generation not every node has sent its inventory
	StillHolds       Code = 19 // the node is still a member of segments
	OldNonce         Code = 20 // a Register of a process that was followed by another
	CopyLeft         Code = 21 // a member's store may still have a copy
	Unchanged        Code = 26 // an entry that is so already, or not there to be removed
)

// OpResult is the outcome of one operation.
type OpResult struct {
	Code  Code
	Epoch Epoch // the segment's now; 0: there is none. ShareOps, BudgetOps: see there
}

// Result is the outcome of one command. It is the same on every node.
type Result struct {
	Code Code // of the command as a whole; OK where only operations of it were refused
	// Text says in words why not; empty with OK.
	Text string
	// Fatal says that the cluster's feature level promises that this program
	// knows the command, and it does not: it must end and not apply anything
	// further.
	Fatal   bool
	Session Session    // Register: the session given
	Ops     []OpResult // SegmentOps, SuppressOps: in order
	Version uint64     // RecordPut: the record's now, 0: there is none; also where it was WrongVersion. ShareOps: the reign
	Audit   AuditMark  // AuditAppend: the entry's place
	// What was touched, each at most once; Segments sorted. A segment that is
	// among them and has no record any more is gone. All says that it may have
	// been anything (a new generation).
	Segments []SegmentID
	Nodes    []string
	Cluster  bool     // settings, configuration, level or generation
	Records  bool     // a record of the operators
	Roster   bool     // the roster, or a new reign
	Limits   []string // keys of limits, sorted
	All      bool
}
