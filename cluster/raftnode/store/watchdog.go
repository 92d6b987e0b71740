package store

import (
	"sync"
	"time"
)

// watchSteps is into how many steps the limit is cut: an operation is hung when
// it was under way at this many looks in a row. Looks are counted, not time, so
// that a process that was stopped for a while finds no disk guilty.
const watchSteps = 10

// watchdog tells of an operation that does not come back.
type watchdog struct {
	bark func(op string)
	quit chan struct{}
	once sync.Once
	done sync.WaitGroup

	mu   sync.Mutex
	next uint64
	ops  map[uint64]*watched
}

type watched struct {
	op    string
	looks int
}

func newWatchdog(limit time.Duration, bark func(op string)) *watchdog {
	w := &watchdog{bark: bark, quit: make(chan struct{}), ops: map[uint64]*watched{}}
	w.done.Go(func() { w.run(limit / watchSteps) })
	return w
}

func (w *watchdog) run(step time.Duration) {
	t := time.NewTicker(step)
	defer t.Stop()
	for {
		select {
		case <-w.quit:
			return
		case <-t.C:
			if op := w.look(); op != "" {
				w.bark(op)
				return
			}
		}
	}
}

func (w *watchdog) look() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.ops {
		if o.looks++; o.looks > watchSteps {
			return o.op
		}
	}
	return ""
}

func (w *watchdog) begin(op string) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	w.ops[w.next] = &watched{op: op}
	return w.next
}

func (w *watchdog) end(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ops, id)
}

func (w *watchdog) stop() {
	w.once.Do(func() { close(w.quit) })
	w.done.Wait()
}
