package state

import (
	"errors"

	"github.com/clrelay/clrelay/spool/record"
)

// Errors of a member's calls; all come wrapped.
var (
	ErrNotOwner      = errors.New("not the owner of the segment")
	ErrNoSegment     = errors.New("unknown segment")
	ErrUnknownRecord = errors.New("unknown kind of record")
	ErrRefused       = errors.New("records refused")
)

// View is what Raft says of a segment.
type View struct {
	ID, Epoch uint64
	State     record.SegmentState
	Owner     record.Member
	Members   []record.Member
	End       uint64 // with EndSet: whatever is above it is void
	EndSet    bool
}

// Held is what a node has of a replicated segment.
type Held struct {
	View
	Last       uint64 // everything up to it was appended here, once
	Unfinished int    // messages
	Bytes      int64  // of all messages ever entered
	Owned      bool   // by Claim
}
