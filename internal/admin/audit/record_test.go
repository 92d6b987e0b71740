package audit

import (
	"slices"
	"testing"

	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// The outcome names the nodes that were not told, wherever the answer has them.
func TestMissing(t *testing.T) {
	want := []string{"mx3"}
	for _, answer := range []any{
		&adminv1.DropResponse{Result: &adminv1.ChangeResult{MissingNodes: want}},
		&adminv1.LiftLockoutsResponse{MissingNodes: want},
	} {
		if got := missing(answer); !slices.Equal(got, want) {
			t.Errorf("%T: %v", answer, got)
		}
	}
	if got := missing(nil); got != nil {
		t.Errorf("no answer: %v", got)
	}
}
