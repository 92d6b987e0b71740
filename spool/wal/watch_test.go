package wal

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatchdogCountsSteps: a hang is noticed after the limit, an answer ends
// it, and a step that took long, as after a stop of the process, is one step.
func TestWatchdogCountsSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const step = 500 * time.Millisecond
		barks := atomic.Int32{}
		w := &watchdog{step: step, left: watchSteps, bark: func() { barks.Add(1) }}
		w.look() // as if the timer of a stopped process fired late: one step, whatever the clock says
		time.Sleep((watchSteps-1)*step - time.Millisecond)
		synctest.Wait()
		if n := barks.Load(); n != 0 {
			t.Fatalf("barked %d times too early", n)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if n := barks.Load(); n != 1 {
			t.Errorf("barked %d times, want once", n)
		}
		quiet := &watchdog{step: step, left: watchSteps, bark: func() { t.Error("barked after the answer") }}
		quiet.timer.Store(time.AfterFunc(step, quiet.look))
		time.Sleep(3 * step)
		quiet.end()
		time.Sleep(time.Minute)
	})
}
