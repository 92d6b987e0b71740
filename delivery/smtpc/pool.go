package smtpc

import (
	"crypto/tls"
	"sync"
	"time"

	"github.com/clrelay/clrelay/delivery/smtpc/keep"
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
	idle   keep.Idle[Target, *Conn]
	open   map[string]int // connections by tag
	closed bool
}

// NewPool makes a pool without connections.
func NewPool(o Options) *Pool {
	p := &Pool{o: o.withDefaults(), sessions: tls.NewLRUClientSessionCache(maxSessions), open: map[string]int{}}
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

func (p *Pool) take(t Target) *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.idle.Take(t)
	if !ok {
		return nil
	}
	c.idle.Stop()
	return c
}

// HasIdle tells whether a connection of a tag, or with an empty one any, waits
// for its next use.
func (p *Pool) HasIdle(tag string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle.Tagged(tag)
}

// Open is how many connections of a tag there are.
func (p *Pool) Open(tag string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open[tag]
}

// MakeRoom ends the connection of a tag, or with an empty one of all, that has
// been idle for longest, and returns when the host has closed it, too, or does not within the patience
// with QUIT. It tells whether there was one.
func (p *Pool) MakeRoom(tag string) bool {
	p.mu.Lock()
	c, ok := p.idle.Oldest(tag)
	p.mu.Unlock()
	if !ok {
		return false
	}
	c.idle.Stop()
	c.quit()
	return true
}

// Put hands a connection back. It is kept for the next message, or closed
// when it is broken or has done enough.
func (p *Pool) Put(c *Conn) {
	if c.w.Broken || c.w.Aborted() {
		c.hangUp()
		return
	}
	enough := c.sent >= p.o.MaxMessages || c.most > 0 && c.sent >= c.most || c.spent() || time.Since(c.born) >= p.o.MaxAge
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		c.close() // Close waits for nobody any more
		return
	}
	defer p.mu.Unlock()
	if enough || c.retired.Load() || p.idle.Len() >= p.o.IdleConns {
		p.leave(c)
		return
	}
	p.idle.Put(c.target, c.tag, c)
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
	if p.idle.Remove(c.target, c) {
		p.leave(c)
	}
}

// leave says QUIT without making anybody wait for the reply.
func (p *Pool) leave(c *Conn) {
	p.quits.Go(c.quit)
}

// Forget closes the idle connections to a target: one of them has turned out
// to be dead, and what ended it has most likely ended all.
func (p *Pool) Forget(t Target) {
	p.mu.Lock()
	list := p.idle.All(t, true)
	p.mu.Unlock()
	for _, c := range list {
		c.idle.Stop()
		p.quits.Go(c.hangUp)
	}
}

// Close ends the idle connections and waits until they have said QUIT. A
// connection that is in use is closed when it is put back.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	for _, c := range p.idle.All(Target{}, false) {
		c.idle.Stop()
		p.leave(c)
	}
	p.mu.Unlock()
	p.quits.Wait()
}
