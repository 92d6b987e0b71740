//go:build clrelay_next

package fsm

// KnownLevel is one above the real program's: this is the program that the
// tests of rolling upgrades upgrade to, and nobody else builds it.
const KnownLevel = 2

// levelOf takes a change of the configuration for something new, so that there
// is a command that only a whole cluster of such programs may use.
func levelOf(c Command) uint32 {
	if _, ok := c.(ConfigApply); ok {
		return 2
	}
	return 1
}
