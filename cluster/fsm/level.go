package fsm

import "slices"

// The feature levels: what is new at each is used once every node knows it.
const (
	firstLevel    = 1
	WriteOffLevel = 2 // of OpWriteOff
	OperatorLevel = 3 // of RecordPut and AuditAppend
	LimitLevel    = 4 // of the shares of limits and the suppression list
	// KnownLevel is the highest that this program knows.
	KnownLevel = LimitLevel + ahead
)

// levelOf returns the feature level that the use of a command needs.
func levelOf(c Command) uint32 {
	switch c := c.(type) {
	case SegmentOps:
		if slices.ContainsFunc(c.Ops, func(o SegmentOp) bool { return o.Kind == OpWriteOff }) {
			return WriteOffLevel
		}
	case RecordPut, AuditAppend:
		return OperatorLevel
	case ShareOps, BudgetOps, SuppressOps:
		return LimitLevel
	}
	if isNew(c) {
		return KnownLevel
	}
	return firstLevel
}
