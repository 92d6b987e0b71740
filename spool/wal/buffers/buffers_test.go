package buffers

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestBufferWait: with every buffer in slow hands, the wait for one ends.
func TestBufferWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(1) // one of each size
		held, err := b.Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := b.Get(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != Wait {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		b.Put(held)
		if _, err := b.Get(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
