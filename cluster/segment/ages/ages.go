// Package ages remembers when numbers that rise were given, many a second, in
// little room: for how long the oldest that still waits has done so.
package ages

import "time"

const (
	markEvery = 50 * time.Millisecond
	maxMarks  = 64 // then the newest is stretched: ages come out too high, never too low
)

// Ages is empty as its zero value.
type Ages struct {
	marks []mark // oldest first; at most maxMarks
}

// mark says that number first was given at a time, and so were or later the
// ones after it.
type mark struct {
	first uint64
	at    time.Duration
}

// Note says that numbers from first on are given now.
func (a *Ages) Note(first uint64, now time.Duration) {
	n := len(a.marks)
	if n == 0 || now-a.marks[n-1].at >= markEvery && n < maxMarks {
		a.marks = append(a.marks, mark{first, now})
	}
}

// Done says that none up to n waits any more, of those up to last.
func (a *Ages) Done(n, last uint64) {
	drop := 0
	for drop+1 < len(a.marks) && a.marks[drop+1].first <= n+1 {
		drop++
	}
	if n == last {
		drop = len(a.marks)
	}
	if drop > 0 {
		a.marks = append(a.marks[:0], a.marks[drop:]...)
	}
}

// Above says how long ago the first number above n was given; 0 where none was.
func (a *Ages) Above(n uint64, now time.Duration) time.Duration {
	if len(a.marks) == 0 {
		return 0
	}
	at := a.marks[0].at
	for _, k := range a.marks {
		if k.first > n+1 {
			break
		}
		at = k.at
	}
	return now - at
}
