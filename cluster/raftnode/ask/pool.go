package ask

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	maxQuestions = 64 // under way at a time, all nodes together
	maxIdle      = 8  // connections kept for later, a node
	idleAge      = time.Minute
	sureAge      = 200 * time.Millisecond // younger idle connections are used unseen
	dialTimeout  = 3 * time.Second
	answerMargin = 100 * time.Millisecond // a server ends its work this long before the asker gives up
)

// To names who is asked.
type To struct{ Node, Address string }

// Pool asks other nodes and keeps the connections for the next questions.
type Pool struct {
	dial  func(ctx context.Context, node, address string) (net.Conn, error)
	slots chan struct{}

	mu     sync.Mutex
	closed bool
	idle   map[To][]idleConn
}

type idleConn struct {
	net.Conn
	since time.Time
}

var errClosed = errors.New("ask: closed")

// ErrNotAsked marks a question that never left this node.
var ErrNotAsked = errors.New("ask: not asked")

// NewPool returns a pool that connects through dial.
func NewPool(dial func(ctx context.Context, node, address string) (net.Conn, error)) *Pool {
	return &Pool{dial: dial, slots: make(chan struct{}, maxQuestions), idle: map[To][]idleConn{}}
}

// Ask puts one question and returns the answer's status and body.
func (p *Pool) Ask(ctx context.Context, to To, kind byte, body []byte) (byte, []byte, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return 0, nil, fmt.Errorf("%w: %w", ErrNotAsked, ctx.Err())
	}
	c, err := p.take(ctx, to)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrNotAsked, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // wakes the exchange below
	frame, err := exchange(ctx, c, kind, body)
	if !stop() || err != nil {
		_ = c.Close() // the error of the exchange is told
		if err == nil {
			return frame[0], frame[1:], nil
		}
		return 0, nil, fmt.Errorf("ask: asking %s: %w", to.Node, err)
	}
	p.put(to, c)
	return frame[0], frame[1:], nil
}

func exchange(ctx context.Context, c net.Conn, kind byte, body []byte) ([]byte, error) {
	life := MaxLife
	if deadline, ok := ctx.Deadline(); ok {
		life = max(time.Until(deadline)-answerMargin, time.Millisecond)
	}
	if err := c.SetDeadline(time.Now().Add(life + answerMargin)); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil { // the deadline set above may have undone the cancelling one
		return nil, err
	}
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(min(life, MaxLife)/time.Millisecond))
	if err := writeFrame(c, head, body); err != nil {
		return nil, err
	}
	return readFrame(c, 1, maxAnswer)
}

// take returns a connection, an idle one if it is young and still there.
func (p *Pool) take(ctx context.Context, to To) (net.Conn, error) {
	for {
		c, err := p.unpark(to)
		if err != nil {
			return nil, err
		}
		if c == nil {
			break
		}
		age := time.Since(c.since)
		if age < sureAge || age < idleAge && alive(c.Conn) {
			return c.Conn, nil
		}
		_ = c.Close() // nothing is under way on it
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return p.dial(ctx, to.Node, to.Address)
}

// unpark takes the newest idle connection out, if there is one.
func (p *Pool) unpark(key To) (*idleConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	last := len(p.idle[key]) - 1
	if last < 0 {
		delete(p.idle, key)
		return nil, nil
	}
	c := p.idle[key][last]
	p.idle[key] = p.idle[key][:last]
	return &c, nil
}

// alive tells whether the other end has not closed an idle connection: a read
// that cannot wait ends by its deadline, not with an end of file.
func alive(c net.Conn) bool {
	if c.SetReadDeadline(time.Now().Add(time.Millisecond)) != nil {
		return false
	}
	var one [1]byte
	_, err := c.Read(one[:])
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout() && c.SetReadDeadline(time.Time{}) == nil
}

func (p *Pool) put(to To, c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle[to]) >= maxIdle {
		_ = c.Close() // nothing is under way on it
		return
	}
	p.idle[to] = append(p.idle[to], idleConn{c, time.Now()})
}

// Close closes the idle connections; questions under way end on their own.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, cs := range p.idle {
		for _, c := range cs {
			_ = c.Close() // nothing is under way on it
		}
	}
	p.idle = nil
}
