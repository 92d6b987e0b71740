package system

import (
	"os"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/faults"
)

// TestRollingUpgrade: three nodes go from one program to the next while mail
// comes in, one by one, back and forth; nothing is lost, and the old program is
// refused where it would not understand any more.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	next := os.Getenv("CLRELAY_NEXT")
	if next == "" {
		t.Skip("CLRELAY_NEXT names no program built with -tags clrelay_next: run `make system`")
	}
	began := time.Now()
	err := faults.Upgrade(t.Context(), faults.Options{
		Binary: binary(t), Dir: workDir(t), Loopback: true, Plain: true,
		Log: func(format string, args ...any) {
			t.Logf("%6.1f  "+format, append([]any{time.Since(began).Seconds()}, args...)...)
		},
	}, next, seed(t))
	if err != nil {
		t.Fatal(err)
	}
}
