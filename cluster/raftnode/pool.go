package raftnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	maxQuestions = 64 // under way at a time, all nodes together
	maxIdle      = 8  // connections kept for later, a node
	idleAge      = time.Minute
	sureAge      = 200 * time.Millisecond // younger idle connections are used unseen
	dialTimeout  = 3 * time.Second
)

// pool asks other nodes and keeps the connections for the next questions.
type pool struct {
	dial  func(ctx context.Context, node, address, protocol string) (net.Conn, error)
	slots chan struct{}

	mu     sync.Mutex
	closed bool
	idle   map[raft.ServerAddress][]idleConn
}

type idleConn struct {
	net.Conn
	since time.Time
}

// errNotAsked marks a question that never left this node.
var errNotAsked = errors.New("raftnode: not asked")

func newPool(dial func(ctx context.Context, node, address, protocol string) (net.Conn, error)) *pool {
	return &pool{dial: dial, slots: make(chan struct{}, maxQuestions), idle: map[raft.ServerAddress][]idleConn{}}
}

// ask puts one question and returns the answer's status and body.
func (p *pool) ask(ctx context.Context, to Server, kind byte, body []byte) (byte, []byte, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return 0, nil, fmt.Errorf("%w: %w", errNotAsked, ctx.Err())
	}
	c, err := p.take(ctx, to)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errNotAsked, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // wakes the exchange below
	frame, err := exchange(ctx, c, kind, body)
	if !stop() || err != nil {
		_ = c.Close() // the error of the exchange is told
		if err == nil {
			return frame[0], frame[1:], nil
		}
		return 0, nil, fmt.Errorf("raftnode: asking %s: %w", to.Node, err)
	}
	p.put(to, c)
	return frame[0], frame[1:], nil
}

func exchange(ctx context.Context, c net.Conn, kind byte, body []byte) ([]byte, error) {
	life := leaderTimeout
	if deadline, ok := ctx.Deadline(); ok {
		life = max(time.Until(deadline)-answerMargin, time.Millisecond)
	}
	if err := c.SetDeadline(time.Now().Add(life + answerMargin)); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil { // the deadline set above may have undone the cancelling one
		return nil, err
	}
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(min(life, leaderTimeout)/time.Millisecond))
	if err := writeFrame(c, head, body); err != nil {
		return nil, err
	}
	return readFrame(c, 1, maxAnswer)
}

// take returns a connection, an idle one if it is young and still there.
func (p *pool) take(ctx context.Context, to Server) (net.Conn, error) {
	for {
		c, err := p.unpark(raftAddress(to.Node, to.Address))
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
	return p.dial(ctx, to.Node, to.Address, ProtocolControl)
}

// unpark takes the newest idle connection out, if there is one.
func (p *pool) unpark(key raft.ServerAddress) (*idleConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
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

func (p *pool) put(to Server, c net.Conn) {
	key := raftAddress(to.Node, to.Address)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle[key]) >= maxIdle {
		_ = c.Close() // nothing is under way on it
		return
	}
	p.idle[key] = append(p.idle[key], idleConn{c, time.Now()})
}

func (p *pool) close() {
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

// ask puts a question to the leader that s names and turns the answer's status
// into this package's errors.
func (n *Node) ask(ctx context.Context, s Status, kind byte, body []byte) ([]byte, error) {
	status, answer, err := n.pool.ask(ctx, Server{Node: s.Leader, Address: s.Address}, kind, body)
	switch {
	case errors.Is(err, errNotAsked):
		return nil, fmt.Errorf("%w: %w", ErrNoLeader, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	return answer, said(status, answer)
}

// said is the error that an answer means.
func said(status byte, answer []byte) error {
	switch status {
	case sayOK:
		return nil
	case sayNoLeader:
		return ErrNoLeader
	case sayRefused:
		return fmt.Errorf("%w by the other node: %s", ErrRefused, answer)
	default:
		return fmt.Errorf("%w: %s", ErrUnknownOutcome, answer)
	}
}
