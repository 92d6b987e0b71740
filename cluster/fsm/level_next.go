//go:build clrelay_next

package fsm

import "strings"

// ahead is by how many levels this program is above the real one: this is the
// program that the tests of rolling upgrades upgrade to, and nobody else builds
// it.
const ahead = 1

// isNew takes a change of the configuration for a reason that begins with "new:"
// for something new, so that there is a command that only a whole cluster of
// such programs may use. It must be one that the real program never wrote: what
// is in a log of before is never new.
func isNew(c Command) bool {
	a, ok := c.(ConfigApply)
	return ok && strings.HasPrefix(a.Config.Reason, "new:")
}
