package dnsx

import (
	"context"
	"sync"
)

// maxFlights bounds the questions that are asked at a time, and with them the
// sockets that are open.
const maxFlights = 512

// flights lets equal lookups share one question. Safe for concurrent use.
type flights struct {
	slots chan struct{}

	mu sync.Mutex
	m  map[question]*flight
}

// flight is a question that is being asked. It ends when nobody waits for it
// any longer.
type flight struct {
	waiting int // guarded by flights.mu
	cancel  context.CancelFunc
	done    chan struct{} // closed when e and err are set
	e       entry
	err     error
}

// do asks the question with ask, or waits for somebody who does. It returns
// when the context ends, whatever the question does.
func (f *flights) do(ctx context.Context, q question, ask func(context.Context, question) (entry, error)) (entry, error) {
	f.mu.Lock()
	fl, ok := f.m[q]
	if !ok {
		fl = &flight{done: make(chan struct{})}
		var own context.Context
		own, fl.cancel = context.WithCancel(context.WithoutCancel(ctx))
		f.m[q] = fl
		go f.run(own, q, fl, ask)
	}
	fl.waiting++
	f.mu.Unlock()

	select {
	case <-fl.done:
		return fl.e, fl.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiting--; fl.waiting == 0 {
		fl.cancel()
		f.remove(q, fl) // who comes now asks anew
	}
	return entry{}, ctx.Err()
}

func (f *flights) run(ctx context.Context, q question, fl *flight, ask func(context.Context, question) (entry, error)) {
	defer fl.cancel()
	select {
	case f.slots <- struct{}{}:
		fl.e, fl.err = ask(ctx, q)
		<-f.slots
	case <-ctx.Done():
		fl.err = ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(q, fl)
	close(fl.done)
}

func (f *flights) remove(q question, fl *flight) {
	if f.m[q] == fl {
		delete(f.m, q)
	}
}
