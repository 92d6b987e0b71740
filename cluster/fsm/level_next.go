//go:build clrelay_next

package fsm

// ahead is by how many levels this program is above the real one: this is the
// program that the tests of rolling upgrades upgrade to, and nobody else builds
// it.
const ahead = 1

// isNew takes a change of the configuration for something new, so that there
// is a command that only a whole cluster of such programs may use.
func isNew(c Command) bool {
	_, ok := c.(ConfigApply)
	return ok
}
