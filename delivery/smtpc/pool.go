package smtpc

import (
	"crypto/tls"
	"slices"
	"sync"
	"time"

	"github.com/clrelay/clrelay/delivery/smtpc/wire"
)

// maxSessions is how many TLS sessions are remembered for resumption.
const maxSessions = 256

// Pool dials hosts and keeps idle connections for the next message.
type Pool struct {
	o        Options
	sessions tls.ClientSessionCache
	buffers  sync.Pool
	quits    sync.WaitGroup

	mu     sync.Mutex
	idle   map[Target][]*Conn // the last one was used last
	count  int
	closed bool
}

// NewPool makes a pool without connections.
func NewPool(o Options) *Pool {
	p := &Pool{
		o:        o.withDefaults(),
		sessions: tls.NewLRUClientSessionCache(maxSessions),
		idle:     map[Target][]*Conn{},
	}
	p.buffers.New = func() any { return new([wire.BufferSize]byte) }
	return p
}

func (p *Pool) buffer() []byte { return p.buffers.Get().(*[wire.BufferSize]byte)[:0] }

func (p *Pool) release(b []byte) {
	if cap(b) == wire.BufferSize { // one that grew is not kept
		p.buffers.Put((*[wire.BufferSize]byte)(b[:wire.BufferSize]))
	}
}

// Idle gives a kept connection to the target that seems well, or nil.
func (p *Pool) Idle(t Target) *Conn {
	for {
		c := p.take(t)
		if c == nil {
			return nil
		}
		if c.w.Alive() {
			c.reused = true
			p.o.Metrics.Reused.Inc()
			return c
		}
		c.close()
	}
}

// take gives the connection that was used last: those that are not needed
// grow old together.
func (p *Pool) take(t Target) *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[t]
	if len(list) == 0 {
		return nil
	}
	c := list[len(list)-1]
	p.drop(t, len(list)-1)
	c.idle.Stop()
	return c
}

// drop takes the i-th connection to a target off the list.
func (p *Pool) drop(t Target, i int) {
	list := slices.Delete(p.idle[t], i, i+1)
	if len(list) == 0 {
		delete(p.idle, t)
	} else {
		p.idle[t] = list
	}
	p.count--
}

// Put hands a connection back. It is kept for the next message, or closed
// when it is broken or has done enough.
func (p *Pool) Put(c *Conn) {
	if c.w.Broken || c.w.Aborted() {
		c.close()
		return
	}
	enough := c.sent >= p.o.MaxMessages || c.spent() || time.Since(c.born) >= p.o.MaxAge
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.close() // Close waits for nobody any more
		return
	}
	if enough || p.count >= p.o.IdleConns {
		p.leave(c)
		return
	}
	p.idle[c.target] = append(p.idle[c.target], c)
	p.count++
	if c.idle == nil {
		c.idle = time.AfterFunc(p.o.MaxIdle, func() { p.expire(c) })
	} else {
		c.idle.Reset(p.o.MaxIdle)
	}
}

// expire closes a connection that has waited for long enough. One that was
// taken meanwhile is not on the list.
func (p *Pool) expire(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.idle[c.target], c); i >= 0 {
		p.drop(c.target, i)
		p.leave(c)
	}
}

// leave says QUIT without making anybody wait for the reply.
func (p *Pool) leave(c *Conn) {
	p.quits.Go(func() {
		c.w.Quit(p.o.Timeouts.Quit)
		c.close()
	})
}

// Forget closes the idle connections to a target: one of them has turned out
// to be dead, and what ended it has most likely ended all.
func (p *Pool) Forget(t Target) {
	p.mu.Lock()
	list := p.idle[t]
	delete(p.idle, t)
	p.count -= len(list)
	p.mu.Unlock()
	for _, c := range list {
		c.idle.Stop()
		c.close()
	}
}

// Close ends the idle connections and waits until they have said QUIT. A
// connection that is in use is closed when it is put back.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	for _, list := range p.idle {
		for _, c := range list {
			c.idle.Stop()
			p.leave(c)
		}
	}
	clear(p.idle)
	p.count = 0
	p.mu.Unlock()
	p.quits.Wait()
}
