package segment

import (
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/segment/balance"
)

// Times and bounds of the protocol.
const (
	TickEvery    = 20 * time.Millisecond  // how often the driver sends a Tick
	StallAfter   = time.Second            // without progress a segment is sealed
	GiveUpAfter  = 10 * time.Second       // a Seal without outcome: the clients are told 451
	FullWait     = 60 * time.Second       // how long an arriving message keeps a full segment open
	DrainWait    = 20 * time.Second       // the same, while draining
	AskFor       = 2 * time.Second        // how long a takeover waits for the other members
	ResultWindow = 1000                   // results not yet durable on all fresh members ...
	ResultAge    = 500 * time.Millisecond // ... or older than this: delivery pauses
	StaleAfter   = time.Second            // a member this far behind with results is marked stale
	ProposeEvery = 500 * time.Millisecond // a proposal without outcome is repeated
	MaxOpening   = 4                      // opens proposed and not decided
	MaxJobs      = 16                     // members being brought up to date at once
	JobPatience  = 30 * time.Second       // a member that makes no progress in this is let go, and tried again later
	JobPause     = time.Second            // between two tries
	VouchWithin  = 10 * time.Second       // an owner that was restarted must have spoken with a fresh member in this
	CopyGrace    = 60 * time.Second       // how long a copy that did not become a member is kept
	avoidFor     = 30 * time.Second       // a node that stalled a segment is chosen last
	liveWithin   = 3 * time.Second        // a node whose last renewal is this much behind the others' is not asked
	retryAfter   = TickEvery              // an append that came too early is sent again
)

// Rules names rules of the protocol that the tests take out, one by one, to
// show that each is needed. Production never sets any.
type Rules uint32

// The rules that can be taken out.
const (
	WriteAll        Rules = 1 << iota // acked = the lowest over ALL members
	LeaseToAck                        // a 250 needs a valid lease
	LeaseToDeliver                    // a delivery needs a valid lease
	MemberEpoch                       // a member takes appends of exactly its own epoch, from the owner
	SealStopsAcks                     // nothing is acknowledged once a Seal was proposed
	RegisterFirst                     // nothing is done before the own Register and the floor are applied
	StaleAtRecovery                   // members that did not answer a takeover are stale
	FreshCounts                       // delivery waits for a member from the proposal of Fresh on
)

// Config is what a machine is made of.
type Config struct {
	Self    fsm.Ref
	Expect  int    // bootstrap_expect: how many nodes the cluster is meant to have at least
	Open    int    // OPEN segments to keep, spares among them; 0: 4
	Seed    uint64 // of the choice among equals
	Held    []Held // what the disk has
	Floor   uint64 // Raft index behind the last step that forgot something
	Suspect bool   // damage was found at the start: what is missing here proves nothing
	Without Rules
	// Balance says when backlog moves to other nodes. Its zero value is for
	// production; the seed is set here.
	Balance balance.Config
}

// Held is one segment as the disk has it at the start.
type Held struct {
	Segment fsm.SegmentID
	Last    uint64 // highest sequence number appended, durable
	// As the header of the segment says, for a cluster that lost its records.
	Epoch   fsm.Epoch
	Owner   fsm.Ref
	Members []fsm.Ref
	End     uint64
	EndSet  bool
}

// Item kinds. Epoch is always the sender's epoch of the segment. Of an item
// that bears records the driver attaches and reads Data; the machine never
// looks at it.
const (
	// ItemAppend bears the records Seq to Arg. Owner to member.
	ItemAppend uint8 = 1 + iota
	// ItemAck says that all up to Seq is durable at the sender. Member to owner.
	ItemAck
	// ItemGap answers an append that cannot be taken: the sender has up to
	// Seq. With Arg 1 it is only behind with the log of Raft: try again.
	ItemGap
	// ItemRefused answers an append of a segment that has changed: Epoch is
	// what the sender knows, Seq is 1 where it lacks room for copies.
	ItemRefused
	// ItemResults bears the results numbered Seq to Arg. Owner to member.
	ItemResults
	// ItemResultsAck says that the results up to Seq, numbered by session
	// Arg, are durable at the sender.
	ItemResultsAck
	// ItemAsk asks a member, after a takeover, what it has. Arg: token.
	ItemAsk
	// ItemAnswer is its answer: durable up to Seq, with Doubtful set where
	// damage was found; its inventory follows. Arg: the token.
	ItemAnswer
	// ItemInventory bears a piece of an inventory: Seq counts the pieces
	// from 0, the last has LastPiece set. Arg: the token.
	ItemInventory
	// ItemMerged says that the inventory of token Arg is merged and durable;
	// Seq messages are still missing at the sender. With Again nothing is, but
	// something was, and results may have passed while it was fetched: the owner
	// sends its inventory once more.
	ItemMerged
	// ItemSync announces to a node that it is to hold a full copy, as the
	// member it is or to become one. Seq 1 asks for its own inventory first.
	// Arg: token.
	ItemSync
	// ItemFetch asks for messages; Data says which. Arg: the token.
	ItemFetch
	// ItemCopy bears records that were asked for. Arg: the token.
	ItemCopy
	// ItemTrouble says whether (Arg 1) the sender takes no new copies. No segment.
	ItemTrouble
	// ItemDamaged says that the sender, a fresh member, has only up to Seq.
	ItemDamaged
)

// LastPiece marks the last piece in ItemInventory's Seq.
const LastPiece = uint64(1) << 63

// Again is ItemMerged's Seq of a node that fetched what was missing.
const Again = uint64(1) << 63

// Doubtful marks ItemAnswer's Seq of a store that found damage at its start.
const Doubtful = uint64(1) << 63

// Item is what nodes exchange, without its data.
type Item struct {
	Kind     uint8
	Segment  fsm.SegmentID
	Epoch    fsm.Epoch
	Seq, Arg uint64
}

// Event is something that happened. Events are pointers so that the driver can
// reuse them: the machine keeps nothing of one but the slices in Applied.
type Event interface{ event() }

// The events.
type (
	// Registered tells the session that the control plane gave this process.
	Registered struct{ Session fsm.Session }

	// Applied tells what the control plane says at Index: all of it (Full), or
	// what has changed since the last one. Levels, not transitions. Segments
	// of no concern to this node may be left out. Full must be used after a
	// snapshot was restored, a generation was begun, and the first time.
	Applied struct {
		Index    uint64
		Full     bool
		Segments []fsm.Segment
		Gone     []fsm.SegmentID // records that are gone; unused with Full
		// WrittenOff are those without a record that the operator gave up for
		// lost: of those in Gone, or with Full of all.
		WrittenOff []fsm.SegmentID
		Nodes      []fsm.Node
		Settings   fsm.Settings
		// Forgetful says that what has no record may be deleted: every node of
		// this generation has sent its inventory.
		Forgetful bool
	}

	// Tick comes every TickEvery.
	Tick struct{}

	// Appended: records First to Last of an own OPEN segment are in the own
	// log, not yet durable.
	Appended struct {
		Segment     fsm.SegmentID
		First, Last uint64
	}

	// Durable: the own log has all of an own segment up to Seq on the disk.
	Durable struct {
		Segment fsm.SegmentID
		Seq     uint64
	}

	// Arrived: a message that Pick found a place for will append no more.
	Arrived struct{ Segment fsm.SegmentID }

	// Full: an own OPEN segment is large enough.
	Full struct{ Segment fsm.SegmentID }

	// ResultsAppended: results of an owned segment are in the own log. The
	// driver numbers them, without gaps within one ownership, and never gives
	// a number of a segment twice in the life of the process.
	ResultsAppended struct {
		Segment     fsm.SegmentID
		First, Last uint64
	}

	// ResultsDurable: the own log has them on the disk up to Last.
	ResultsDurable struct {
		Segment fsm.SegmentID
		Last    uint64
	}

	// Empty: an owned segment has no unfinished message at or below its end,
	// and none is arriving.
	Empty struct{ Segment fsm.SegmentID }

	// Quiet: no delivery attempt of the segment is under way any more, and none
	// can begin before an ActResume. Answers the ActQuiesce with Token.
	Quiet struct {
		Segment fsm.SegmentID
		Token   uint64
	}

	// Received: items of one frame, in order, from a peer that is up.
	Received struct {
		From  fsm.Ref
		Items []Item
	}

	// PeerUp: there is a stream to this process of a node. After a PeerDown
	// nothing sent before it arrives any more.
	PeerUp struct {
		Peer    fsm.Ref
		Session fsm.Session
	}

	// PeerDown: there is none any more.
	PeerDown struct{ Peer fsm.Ref }

	// Taken: as a member, all of the segment up to Seq is on the own disk.
	Taken struct {
		Segment fsm.SegmentID
		Seq     uint64
	}

	// TakeFailed: records from First on could not be taken (no room for
	// copies, an unknown kind of record); nothing of them is in the log.
	TakeFailed struct {
		Segment fsm.SegmentID
		First   uint64
	}

	// TakenResults: as a member, the results up to Last, as numbered by the
	// session, are on the own disk.
	TakenResults struct {
		Segment fsm.SegmentID
		From    fsm.Ref
		Session fsm.Session
		Last    uint64
	}

	// Merged: the whole inventory of an ActMerge is merged and durable.
	// Missing messages are live there and not whole here. With Complete and
	// none missing, the store has durably noted that it has all of the segment up to
	// the action's Seq (Held.Last), even where some of it was finished before it
	// came.
	Merged struct {
		Segment fsm.SegmentID
		From    fsm.Ref
		Token   uint64
		Missing int
	}

	// Fetched: an ActFetch has ended, what came is durable. Missing are left,
	// not counting what is finished at the peer by now. To be sent, too, when the
	// peer goes down.
	Fetched struct {
		Segment fsm.SegmentID
		From    fsm.Ref
		Token   uint64
		Missing int
	}

	// Loads tells, about twice a second, how much mail waits in this node's
	// segments, and at the other nodes that are there and are not being emptied.
	Loads struct {
		Own    []balance.Backlog
		Others []balance.Load
	}

	// Trouble: the own disk takes no new copies, or does again.
	Trouble struct{ On bool }

	// Refused: the control plane committed the proposal and refused this
	// operation. An outcome unknown is no refusal.
	Refused struct {
		Op   fsm.SegmentOp
		Code fsm.Code
	}

	// DropLease: the clock or the schedule of this process jumped.
	DropLease struct{}
)

func (*Registered) event()      {}
func (*Applied) event()         {}
func (*Tick) event()            {}
func (*Appended) event()        {}
func (*Durable) event()         {}
func (*Arrived) event()         {}
func (*Full) event()            {}
func (*ResultsAppended) event() {}
func (*ResultsDurable) event()  {}
func (*Empty) event()           {}
func (*Quiet) event()           {}
func (*Received) event()        {}
func (*PeerUp) event()          {}
func (*PeerDown) event()        {}
func (*Taken) event()           {}
func (*TakeFailed) event()      {}
func (*TakenResults) event()    {}
func (*Merged) event()          {}
func (*Fetched) event()         {}
func (*Loads) event()           {}
func (*Trouble) event()         {}
func (*Refused) event()         {}
func (*DropLease) event()       {}

// ActionKind says what an Action asks for.
type ActionKind uint8

// The actions, with the fields of Action they use.
const (
	// ActSend sends Item to Peer. ItemAppend and ItemResults stand for the
	// records or results Seq to Arg: the driver attaches them, from memory or
	// from the log, cut into as many items of the same kind as it likes, in
	// order. A peer that is down: drop it.
	ActSend ActionKind = 1 + iota
	// ActPropose proposes Ops through Raft, as one command or several. The
	// driver forgets it: what came of it is seen in Applied, and it is
	// repeated from here. A refusal comes back as Refused.
	ActPropose
	// ActProposeNode proposes Verb of this node.
	ActProposeNode
	// ActAcked: all messages of Segment up to Seq are safe. 250 may be sent,
	// now, and they may be delivered.
	ActAcked
	// ActMoved: Segment ends at Seq. What waits above it is dead there and is
	// appended elsewhere; what waits at or below it was told by ActAcked
	// before or is told by ActLost after. It may come more than once.
	ActMoved
	// ActLost: whoever still waits in Segment is told 451, and its message is
	// voided by a result where that can still be.
	ActLost
	// ActResultsAcked: results up to Seq are durable on all fresh members.
	ActResultsAcked
	// ActStore appends, as a member, the part First to Seq of item Index of
	// the Received event to the log. Comes back as Taken or TakeFailed.
	ActStore
	// ActStoreResults merges the results of item Index into the log; they are
	// numbered by Session and end with Seq. Comes back as TakenResults. They
	// may be of a segment that this node owns: the owner before had them still
	// to tell. Who is settled by them is not tried again; so, too, with ActMerge.
	ActStoreResults
	// ActSetSegment tells the spool what the record says. Before any
	// ActStore or ActOwn that follows from it.
	ActSetSegment
	// ActOwn: this node owns Segment and delivers from it, up to its End.
	// Takeover: another process owned it before, so what was due may have been
	// tried already. An own OPEN segment is owned from its first message on
	// and has no ActOwn before it changes hands.
	ActOwn
	// ActDisown: it does so no longer.
	ActDisown
	// ActPause and ActResume stop and start new attempts of Segment.
	ActPause
	ActResume
	// ActQuiesce asks for a Quiet when no attempt of Segment is under way. It
	// is paused.
	ActQuiesce
	// ActSendInventory sends what this node has of Segment to Peer, as
	// ItemInventory pieces with Epoch and Token. Taken after all results that
	// were told by ResultsAppended.
	ActSendInventory
	// ActMerge merges the piece that is item Index of the Received event:
	// results unite; with Complete also what is not live there, though it was
	// there, is finished here. Messages above Seq do not count. After the last
	// piece it comes back as Merged.
	ActMerge
	// ActFetch asks Peer, by ItemFetch with Epoch and Token, for what the
	// merged inventory said was missing, a bounded amount at a time. Comes back as
	// Fetched.
	ActFetch
	// ActServe answers item Index, an ItemFetch of Peer.
	ActServe
	// ActPut keeps item Index, an ItemCopy of Peer, that was asked for.
	ActPut
	// ActForget deletes all of Segment here; Index (in Seq) goes to the log first.
	ActForget
	// ActMoving tells the operator what becomes of moving Segment to Peer, which
	// has less mail: it begins (no Why), it is there (Complete), or why it stays.
	ActMoving
	// ActBeacon sends beacon number Seq to the leader.
	ActBeacon
	// ActAlarm tells the operator: Why, of Segment.
	ActAlarm
	// ActFatal: something that cannot be has happened, or another process is
	// this node now. The process ends.
	ActFatal
)

// Action is something the driver has to do.
type Action struct {
	Kind       ActionKind
	Peer       fsm.Ref
	Item       Item
	Segment    fsm.SegmentID
	Epoch      fsm.Epoch
	First, Seq uint64
	Index      int
	Token      uint64
	Session    fsm.Session
	Complete   bool
	Takeover   bool
	Verb       fsm.NodeVerb
	Ops        []fsm.SegmentOp // of its own: the driver may keep it
	Record     *fsm.Segment    // ActSetSegment; never written again
	Why        string
}
