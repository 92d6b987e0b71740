package ask

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Statuses of an answer.
const (
	OK       byte = iota
	NoLeader      // nothing was done; the body may name who leads
	Unknown       // it may or may not be done
	Refused       // it will not be done, says the body
)

const (
	// MaxBody is the largest body of a question in octets.
	MaxBody = 2 << 20
	// MaxLife is the longest that a server works on a question.
	MaxLife = 30 * time.Second

	frameHead    = 5 // of what comes after the length, in a question
	maxFrame     = MaxBody + frameHead
	maxAnswer    = 1 << 20
	maxConns     = 256
	frameTimeout = 10 * time.Second // for the rest of a question that has begun, and for an answer to be taken
	idleTimeout  = 5 * time.Minute
)

// Options of a Server.
type Options struct {
	Listener net.Listener
	// Peer names the node at the other end.
	Peer func(net.Conn) (string, error)
	// Answer does what peer asks. It may take until ctx ends.
	Answer func(ctx context.Context, peer string, kind byte, body []byte) (status byte, answer []byte)
	Log    *slog.Logger
}

// Server answers the questions of other nodes.
type Server struct {
	o      Options
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// NewServer returns a server that does nothing yet.
func NewServer(o Options) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	return &Server{o: o, ctx: ctx, cancel: cancel, conns: map[net.Conn]struct{}{}}
}

// Serve takes connections until the listener is closed.
func (c *Server) Serve() {
	for {
		conn, err := c.o.Listener.Accept()
		if err != nil {
			return
		}
		if !c.add(conn) {
			_ = conn.Close() // nothing was said on it
			continue
		}
		c.done.Go(func() {
			defer c.remove(conn)
			if err := c.talk(conn); !errors.Is(err, io.EOF) && c.ctx.Err() == nil {
				c.o.Log.Debug("a control connection ended", "remote", conn.RemoteAddr().String(), "error", err)
			}
		})
	}
}

func (c *Server) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil || len(c.conns) >= maxConns {
		return false
	}
	c.conns[conn] = struct{}{}
	return true
}

func (c *Server) remove(conn net.Conn) {
	_ = conn.Close() // all that mattered was answered
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
}

// Stop closes the listener and all connections and waits for what is under
// way.
func (c *Server) Stop() {
	c.mu.Lock()
	c.cancel()
	_ = c.o.Listener.Close() // it only listens
	for conn := range c.conns {
		_ = conn.Close() // ends its talk
	}
	c.mu.Unlock()
	c.done.Wait()
}

// talk answers the questions of one connection until it ends, and says why.
func (c *Server) talk(conn net.Conn) error {
	peer, err := c.o.Peer(conn)
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
		ctx, cancel := context.WithTimeout(c.ctx, min(life, MaxLife))
		status, answer := c.o.Answer(ctx, peer, kind, body)
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
		return nil, fmt.Errorf("ask: a frame of %d octets", size)
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
