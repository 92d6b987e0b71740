package faults

import (
	"testing"
	"time"
)

// TestExcess: what judges the limit finds one message too many.
func TestExcess(t *testing.T) {
	start := time.Unix(1_000, 0)
	var even []time.Time
	for i := range 500 {
		even = append(even, start.Add(time.Duration(i)*time.Second/limitRate))
	}
	if got := excess(even); got > -20 {
		t.Errorf("at the rate: %.1f", got)
	}
	// A full burst in the middle, and all of the slack: just allowed.
	at := even[300]
	full := append([]time.Time{}, even[:301]...)
	for range limitBurst + int(limitRate*limitSlack.Seconds()) - 1 {
		full = append(full, at)
	}
	if got := excess(full); got > 0.001 || got < -0.001 {
		t.Errorf("a full burst: %.3f", got)
	}
	if got := excess(append(full, at)); got < 0.999 {
		t.Errorf("one more: %.3f", got)
	}
	if n := count(even, start.Add(time.Second), start.Add(2*time.Second)); n != limitRate {
		t.Errorf("%d in a second", n)
	}
}
