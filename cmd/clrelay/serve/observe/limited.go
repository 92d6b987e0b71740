package observe

import (
	"sync"
	"time"
)

// sayLimited is how often a limit is spoken of that mail waits for, and
// maxLimited how many are remembered for that.
const (
	sayLimited = time.Minute
	maxLimited = 10_000
)

// limited counts how often limits put something off.
type limited struct {
	mu    sync.Mutex
	since map[string]said
}

type said struct {
	at    time.Time
	times int // since
}

// count notes one, and gives how many there were if it is time to say so, else
// 0.
func (l *limited) count(where string, now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.since[where]
	if ok && now.Sub(s.at) < sayLimited {
		s.times++
		l.since[where] = s
		return 0
	}
	if l.since == nil || !ok && len(l.since) >= maxLimited {
		l.since = map[string]said{} // what is forgotten is said again at most
	}
	l.since[where] = said{at: now}
	return s.times + 1
}
