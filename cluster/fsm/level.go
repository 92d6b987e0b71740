//go:build !clrelay_next

package fsm

// KnownLevel is the highest feature level that this program knows.
const KnownLevel = 1

// levelOf returns the feature level that the use of a command needs.
func levelOf(Command) uint32 { return 1 }
