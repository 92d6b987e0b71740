package record

import "errors"

// Errors of a member's calls; all come wrapped.
var (
	// ErrFinished says that the message has no recipient left to do.
	ErrFinished      = errors.New("message is finished")
	ErrNotOwner      = errors.New("not the owner of the segment")
	ErrNoSegment     = errors.New("unknown segment")
	ErrUnknownRecord = errors.New("unknown kind of record")
	ErrRefused       = errors.New("records refused")
)

// View is what Raft says of a segment.
type View struct {
	ID, Epoch uint64
	State     SegmentState
	Owner     Member
	Members   []Member
	End       uint64 // with EndSet: whatever is above it is void
	EndSet    bool
}
