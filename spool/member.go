package spool

import (
	"errors"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/wal"
)

// Errors of a spool that is a member of a cluster; all come wrapped.
var (
	// ErrMoved is a Ticket's word that the records were never acknowledged in
	// their segment and never will be: the message has to go elsewhere.
	ErrMoved = errors.New("the segment takes no more")
	// ErrNotOwner says that the message's segment is not this node's now.
	ErrNotOwner = state.ErrNotOwner
	// ErrNoSegment says that nothing is known of the segment here.
	ErrNoSegment = state.ErrNoSegment
	// ErrUnknownRecord says that a record is of a kind that this program does
	// not know; nothing of the call was done.
	ErrUnknownRecord = state.ErrUnknownRecord
	// ErrRefused says that records do not fit what is here: an older epoch, a
	// place above the segment's end, a payload that is none. Nothing of the
	// call was done.
	ErrRefused = state.ErrRefused
)

// Placement decides, in a cluster, where new messages go, and tells when they
// are safe on other nodes. Segments that it names have been brought here by
// SetSegment and are owned by Claim.
type Placement interface {
	// Pick names an open segment of this node's for a new message. The error
	// is a *mail.Reply when there is none. Each Pick without an error is
	// followed by one Arrived.
	Pick() (segment, epoch uint64, err error)
	// Append takes the records of one append, all of one segment, in the order
	// of the log, and their commit in the own log. It is called under the
	// spool's lock and must not block or call the spool. The records' data
	// stay as they are until Wait has returned; the slice recs itself does not
	// outlive the call.
	Append(recs []wal.Record, c *wal.Commit) Ticket
	// Settled takes a result or abort record of an owned segment, likewise.
	// Its Seq names the message by its first chunk: it has no number of its
	// own.
	Settled(rec wal.Record, c *wal.Commit) Ticket
	// Arrived says that no more records of a message of this segment will
	// come: it was accepted, aborted or moved.
	Arrived(segment uint64)
}

// Ticket is an append on its way to the members of its segment.
type Ticket interface {
	// Wait gives nil when the records are durable on the own disk and on those
	// of all members, and this node may say so. ErrMoved says that they were
	// never acknowledged in that segment and never will be. Any other error:
	// nobody knows; the client gets 451.
	Wait() error
}

// What travels between the members of a segment, and what Raft says of it.
type (
	// Copy is a record on its way between nodes: a chunk, commit, abort or
	// result, see package record for the kinds.
	Copy = record.Copy
	// Segment is what Raft says of a segment.
	Segment = state.View
	// HeldSegment is what this node has of a segment.
	HeldSegment = state.Held
	// Inventory is what a node holds unfinished of a segment.
	Inventory = record.Inventory
	// LiveMessage is one message of an Inventory.
	LiveMessage = record.LiveMessage
)

// Take appends records of a segment as its member, in the order in which its
// owner appended them; the caller has checked that they follow on what is
// here. What is here already is skipped. Results and aborts change what is
// here, in whatever order they come; those of messages that are not here
// change nothing. All of the call is in the log when it returns, or nothing:
// then the error is ErrNoSegment, ErrRefused, ErrUnknownRecord, or ErrNoSpace
// for chunks and commits while the disk is below its reserve. The data must
// not change until the commit is written, and it must be waited for even if
// all was here already. A nil commit waits for nothing: all is durable.
func (s *Spool) Take(segment, epoch uint64, recs []Copy) (*wal.Commit, error) {
	return nil, errNotYet
}

// Put is Take for the chunks and commits of messages that come out of order:
// copies fetched for a new member, or in place of damaged ones. Chunks of one
// message come in order and before its commit, in as many calls as one likes.
// A message that is here and whole stays as it is.
func (s *Spool) Put(segment, epoch uint64, recs []Copy) (*wal.Commit, error) {
	return nil, errNotYet
}

// SetSegment brings here what Raft says of a segment that this node is a
// member of. A lower epoch than the known one changes nothing. Once EndSet,
// whatever lies above End is void here for good. It returns when that is
// appended.
func (s *Spool) SetSegment(g Segment) (*wal.Commit, error) { return nil, errNotYet }

// Held lists what is here of replicated segments, rising by ID.
func (s *Spool) Held() []HeldSegment { return nil }

// Claim makes this node the segment's owner: its unfinished messages are the
// queue's from now on, and are visited one by one as Each does. takeover says
// that another node, or nobody knows who, delivered from it until now: every
// recipient whose time had come is then counted as a possible duplicate. A
// message whose envelope cannot be read is left out and named in the error;
// the others are visited.
func (s *Spool) Claim(segment uint64, takeover bool, visit Visit) error { return errNotYet }

// Disclaim ends this node's ownership: attempts at the segment's messages and
// results of them fail with ErrNotOwner from now on.
func (s *Spool) Disclaim(segment uint64) error { return errNotYet }

// Inventory tells what is here, unfinished, of a segment.
func (s *Spool) Inventory(segment uint64) (Inventory, error) { return Inventory{}, errNotYet }

// Merge brings the results here up to those of another member's inventory.
// With complete, what is not in it and not above its Last is finished here
// too, unless the other store is suspect. missing are the first chunks of
// those messages of it that are not here, or not whole: Put brings them, and
// a Merge of an inventory that was made after the last Put shows that nothing
// is left to bring. The commit is as that of Take.
func (s *Spool) Merge(segment uint64, inv Inventory, complete bool) (missing []uint64, c *wal.Commit, err error) {
	return nil, nil, errNotYet
}

// Read gives the chunks and the commit of an unfinished message one by one,
// in order, as Put takes them. The data are valid during the call of give
// alone; there is never more than one chunk in memory.
func (s *Spool) Read(segment, first uint64, give func(Copy) error) error { return errNotYet }

// Forget drops whatever is here of a segment; index is that of the Raft entry
// that allows it. It returns when that is durable.
func (s *Spool) Forget(segment uint64, index uint64) error { return errNotYet }

// Floor is the highest index that Forget was ever called with.
func (s *Spool) Floor() uint64 { return 0 }

// Suspect tells whether Open found damage: then nothing may be deleted
// elsewhere because it is not here.
func (s *Spool) Suspect() bool { return false }

// StoreID is the identity of the data here, made with the directory.
func (s *Spool) StoreID() [16]byte { return s.store.ID }

var errNotYet = errors.New("spool: not yet built")
