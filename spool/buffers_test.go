package spool

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
		b := newBuffers(1) // one of each size
		held, err := b.get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := b.get(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != bufferWait {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		b.put(held)
		if _, err := b.get(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
