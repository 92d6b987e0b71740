package raftnode

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// The control protocol: questions and answers in turn on one connection.
//
//	question = length of the rest (4 octets), kind, milliseconds to live (4 octets), body
//	answer   = length of the rest (4 octets), status, body
//
// Bodies are a command, an index (8 octets), a name, or JSON whose unknown
// fields are ignored, so that old and new binaries understand each other.
const (
	askPropose byte = iota + 1
	askBarrier
	askJoin
	askRemove
	askTransfer
	askStats
	askPledge
)

const (
	sayOK       byte = iota
	sayNoLeader      // nothing was done; the body names the leader, NAME@HOST:PORT, if known
	sayUnknown       // it may or may not be done
	sayRefused       // it will not be done, says the body
)

const (
	frameHead       = 5 // of what comes after the length, in a question
	maxFrame        = MaxCommand + frameHead
	maxAnswer       = 1 << 20
	maxControlConns = 256
	frameTimeout    = 10 * time.Second // for the rest of a question that has begun, and for an answer to be taken
	idleTimeout     = 5 * time.Minute
)

// controlServer answers other nodes.
type controlServer struct {
	n      *Node
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func newControlServer(n *Node) *controlServer {
	ctx, cancel := context.WithCancel(context.Background())
	return &controlServer{n: n, ctx: ctx, cancel: cancel, conns: map[net.Conn]struct{}{}}
}

// serve takes connections until the listener is closed.
func (c *controlServer) serve() {
	for {
		conn, err := c.n.o.Net.Control.Accept()
		if err != nil {
			return
		}
		if !c.add(conn) {
			_ = conn.Close() // nothing was said on it
			continue
		}
		c.done.Go(func() {
			defer c.remove(conn)
			if err := c.talk(conn); err != nil && !errors.Is(err, io.EOF) && c.ctx.Err() == nil {
				c.n.log.Debug("a control connection ended", "remote", conn.RemoteAddr().String(), "error", err)
			}
		})
	}
}

func (c *controlServer) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil || len(c.conns) >= maxControlConns {
		return false
	}
	c.conns[conn] = struct{}{}
	return true
}

func (c *controlServer) remove(conn net.Conn) {
	_ = conn.Close() // all that mattered was answered
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
}

func (c *controlServer) stop() {
	c.mu.Lock()
	c.cancel()
	_ = c.n.o.Net.Control.Close() // it only listens
	for conn := range c.conns {
		_ = conn.Close() // ends its talk
	}
	c.mu.Unlock()
	c.done.Wait()
}

// talk answers the questions of one connection.
func (c *controlServer) talk(conn net.Conn) error {
	peer, err := c.n.o.Net.Peer(conn)
	if err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
			return err
		}
		if _, err := r.Peek(1); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(frameTimeout)); err != nil {
			return err
		}
		kind, life, body, err := readQuestion(r)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.ctx, min(life, leaderTimeout))
		status, answer := c.n.answer(ctx, peer, kind, body)
		cancel()
		if err := conn.SetWriteDeadline(time.Now().Add(frameTimeout)); err != nil {
			return err
		}
		if err := writeFrame(conn, []byte{status}, answer); err != nil {
			return err
		}
	}
}

func readQuestion(r io.Reader) (kind byte, life time.Duration, body []byte, err error) {
	frame, err := readFrame(r, frameHead, maxFrame)
	if err != nil {
		return 0, 0, nil, err
	}
	life = time.Duration(binary.BigEndian.Uint32(frame[1:])) * time.Millisecond
	return frame[0], life, frame[frameHead:], nil
}

// readFrame reads a frame of between least and most octets. It takes memory
// only for what has arrived.
func readFrame(r io.Reader, least, most uint32) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < least || size > most {
		return nil, fmt.Errorf("raftnode: a frame of %d octets", size)
	}
	frame, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err == nil && len(frame) < int(size) {
		err = io.ErrUnexpectedEOF
	}
	return frame, err
}

func writeFrame(w io.Writer, head, body []byte) error {
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(head)+len(body)), uint32(len(head)+len(body)))
	_, err := w.Write(append(append(frame, head...), body...))
	return err
}

// answer does what another node asks.
func (n *Node) answer(ctx context.Context, peer string, kind byte, body []byte) (status byte, answer []byte) {
	var err error
	switch kind {
	case askStats:
		return sayOK, n.stats()
	case askPledge:
		err = n.givePledge(peer, body)
	default:
		if s := n.Status(); !s.Leading {
			return sayNoLeader, leaderHint(s)
		}
		answer, err = n.answerAsLeader(ctx, peer, kind, body)
	}
	switch {
	case err == nil:
		return sayOK, answer
	case errors.Is(err, ErrNoLeader):
		return sayNoLeader, leaderHint(n.Status())
	case errors.Is(err, ErrRefused):
		return sayRefused, []byte(err.Error())
	default:
		return sayUnknown, []byte(err.Error())
	}
}

func leaderHint(s Status) []byte {
	if s.Leader == "" || s.Leading {
		return nil
	}
	return []byte(raftAddress(s.Leader, s.Address))
}

func (n *Node) answerAsLeader(ctx context.Context, peer string, kind byte, body []byte) ([]byte, error) {
	switch kind {
	case askPropose:
		if len(body) > MaxCommand {
			return nil, fmt.Errorf("%w: %w", ErrRefused, ErrTooLarge)
		}
		_, index, err := n.apply(ctx, body)
		return binary.BigEndian.AppendUint64(nil, index), err
	case askBarrier:
		index, err := n.barrier(ctx)
		return binary.BigEndian.AppendUint64(nil, index), err
	case askJoin:
		return nil, n.admit(ctx, peer, body)
	case askRemove:
		return nil, n.remove(ctx, string(body))
	case askTransfer:
		return nil, n.transfer(ctx, string(body))
	default:
		return nil, fmt.Errorf("%w: question %d is not known here", ErrRefused, kind)
	}
}
