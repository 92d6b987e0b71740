package fsm

import "slices"

// The feature levels: what is new at each is used once every node knows it.
const (
	firstLevel    = 1
	WriteOffLevel = 2 // of OpWriteOff
	// KnownLevel is the highest that this program knows.
	KnownLevel = WriteOffLevel + ahead
)

// levelOf returns the feature level that the use of a command needs.
func levelOf(c Command) uint32 {
	if ops, ok := c.(SegmentOps); ok && slices.ContainsFunc(ops.Ops, func(o SegmentOp) bool { return o.Kind == OpWriteOff }) {
		return WriteOffLevel
	}
	if isNew(c) {
		return KnownLevel
	}
	return firstLevel
}
