package record

import (
	"slices"
	"testing"

	"github.com/clrelay/clrelay/internal/mail"
)

// TestOrderDoesNotMatter applies the same results in every order: the same
// one wins each time.
func TestOrderDoesNotMatter(t *testing.T) {
	sets := [][]Settled{
		{{Version: 1, State: mail.StateDeferred}, {Version: 2, State: mail.StateHeld}, {Version: 3, State: mail.StateDeferred, Attempts: 9}},
		{{Version: 1, State: mail.StateDelivered}, {Version: 2, State: mail.StateDeferred}, {Version: 3, State: mail.StateActive}},
		{{Version: 5, State: mail.StateDropped}, {Version: 1, State: mail.StateFailed}, {Version: 2, State: mail.StateDelivered}, {Version: 9, State: mail.StateHeld}},
	}
	sets = append(sets, []Settled{{Version: 1, State: mail.StateHeld}, {Version: 2, State: mail.StateTrashed}, {Version: 3, State: mail.StateActive}, {Version: 4, State: mail.StateTrashed}},
		[]Settled{{Version: 7, State: mail.StateTrashed}, {Version: 1, State: mail.StateDropped}})
	wins := []int{2, 0, 2, 3, 1}
	for n, set := range sets {
		permute(set, 0, func(order []Settled) {
			var r Rcpt
			for i := range order {
				r.Merge(&order[i])
			}
			if want := sets[n][wins[n]]; r.State != want.State || r.Version != want.Version {
				t.Errorf("%+v gives %+v, want %+v", order, r, want)
			}
		})
	}
}

func permute(set []Settled, k int, visit func([]Settled)) {
	set = slices.Clone(set)
	if k == len(set) {
		visit(set)
		return
	}
	for i := k; i < len(set); i++ {
		set[k], set[i] = set[i], set[k]
		permute(set, k+1, visit)
		set[k], set[i] = set[i], set[k]
	}
}

// TestSecondsRoundUp: what waits never goes early.
func TestSecondsRoundUp(t *testing.T) {
	for ms, want := range map[int64]uint32{-5: 0, 0: 0, 1: 1, 999: 1, 1000: 1, 1001: 2, 1 << 60: 1<<32 - 1} {
		if got := Seconds(ms); got != want {
			t.Errorf("%d ms: %d s, want %d", ms, got, want)
		}
	}
}
