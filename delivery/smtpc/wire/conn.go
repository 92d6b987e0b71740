package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// Sizes of what is written.
const (
	BufferSize = 64 << 10  // of the memory that Lend wants
	roomForEnd = 16        // kept free in it for what ends the content
	writeSize  = 128 << 10 // of one write, which must pass within Block
	directMin  = 16 << 10  // slices from here on are written without a copy
	tailSize   = 4 << 10   // their last octets wait for what ends the content
)

// Conn is one connection to a host.
type Conn struct {
	// Out gathers what Flush writes.
	Out []byte
	// Limit bounds all that is waited for together, beside the patience with
	// each step; zero: it does not.
	Limit time.Time
	// Block bounds one write (RFC 5321 4.5.3.2.5): a host that stops reading
	// is not waited for longer.
	Block  time.Duration
	Broken bool // nothing can be said on it any more
	// Heard, if it is not nil, is called for each reply.
	Heard func(*Reply)

	raw     net.Conn // the socket; closing it ends everything
	nc      net.Conn // what is read and written: raw, or TLS over it
	in      replyReader
	own     []byte // memory of Out while none is lent
	aborted atomic.Bool
}

// New makes a Conn of a connection that was just made.
func New(raw net.Conn, block time.Duration) *Conn {
	c := &Conn{raw: raw, nc: raw, Block: block}
	c.in.buf = make([]byte, maxReplyLine)
	c.in.src = raw
	return c
}

// Raw is the connection below TLS.
func (c *Conn) Raw() net.Conn { return c.raw }

// Upgrade goes on with what stands over Raw.
func (c *Conn) Upgrade(nc net.Conn) { c.nc, c.in.src = nc, nc }

// Lend gives the connection memory for content, BufferSize octets, while Out
// is empty.
func (c *Conn) Lend(b []byte) { c.own, c.Out = c.Out, b[:0] }

// Reclaim takes it back, with what is still in it.
func (c *Conn) Reclaim() []byte {
	b := c.Out
	c.own, c.Out = nil, c.own
	return b
}

// Abort ends everything at once; whoever reads or writes sees an error.
func (c *Conn) Abort() {
	c.aborted.Store(true)
	_ = c.raw.Close() // that is all there is to do
}

// Aborted tells whether Abort was called.
func (c *Conn) Aborted() bool { return c.aborted.Load() }

// Close ends the connection without a word.
func (c *Conn) Close() {
	c.Broken = true
	_ = c.raw.Close() // nothing is expected from it any more
}

// Buffered is the number of octets that came and were not asked for.
func (c *Conn) Buffered() int { return c.in.buffered() }

// within is now plus patience, but not beyond Limit.
func (c *Conn) within(patience time.Duration) time.Time {
	t := time.Now().Add(patience)
	if !c.Limit.IsZero() && c.Limit.Before(t) {
		return c.Limit
	}
	return t
}

// Read takes one whole reply.
func (c *Conn) Read(patience time.Duration) (*Reply, error) {
	err := c.nc.SetReadDeadline(c.within(patience))
	var rep *Reply
	if err == nil || c.in.buffered() > 0 { // what came before it was closed still counts
		rep, err = c.in.read()
	}
	if err != nil {
		c.Broken = true
		return nil, err
	}
	if c.Heard != nil {
		c.Heard(rep)
	}
	if rep.Code == 421 { // RFC 5321 3.8: the host closes the connection
		c.Broken = true
	}
	return rep, nil
}

// Flush writes out what is gathered.
func (c *Conn) Flush() error {
	if len(c.Out) == 0 {
		return nil
	}
	err := c.write(c.Out)
	c.Out = c.Out[:0]
	return err
}

func (c *Conn) write(p []byte) error {
	err := c.nc.SetWriteDeadline(c.within(c.Block))
	if err == nil {
		_, err = c.nc.Write(p)
	}
	if err != nil {
		c.Broken = true
	}
	return err
}

// Emit sends octets but for the last of them, which wait in Out. There is
// always room there for a few more, so that what ends the content goes out in
// one packet with it.
func (c *Conn) Emit(p []byte) error {
	room := cap(c.Out) - roomForEnd
	for len(c.Out)+len(p) > room {
		small := len(p) < directMin
		if small {
			n := room - len(c.Out)
			c.Out = append(c.Out, p[:n]...)
			p = p[n:]
		}
		if err := c.Flush(); err != nil {
			return err
		}
		if !small {
			n := min(len(p)-tailSize, writeSize)
			if err := c.write(p[:n]); err != nil {
				return err
			}
			p = p[n:]
		}
	}
	c.Out = append(c.Out, p...)
	return nil
}

// Alive tells whether a connection that nothing is expected from is quiet and
// open. Octets that wait unread would be taken for the reply to the next
// command, so they end it as EOF does.
func (c *Conn) Alive() bool {
	if c.in.buffered() > 0 || c.Broken {
		return false
	}
	sc, ok := c.raw.(syscall.Conn)
	if !ok {
		return true
	}
	if c.raw.SetReadDeadline(time.Time{}) != nil {
		return false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = rc.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN
		return true
	})
	return err == nil && quiet && (c.nc == c.raw || c.tlsQuiet())
}

// tlsQuiet looks for octets that TLS has already taken off the socket.
func (c *Conn) tlsQuiet() bool {
	if c.nc.SetReadDeadline(time.Unix(1, 0)) != nil {
		return false
	}
	var b [1]byte
	n, err := c.nc.Read(b[:])
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// Quit says QUIT (RFC 5321 4.1.1.10), waits for the reply and until the host
// closes the connection, no longer than patience, and closes. It tells whether
// the host did.
func (c *Conn) Quit(patience time.Duration) (closed bool) {
	defer c.Close()
	if c.nc.SetDeadline(time.Now().Add(patience)) != nil {
		return true
	}
	if _, err := io.WriteString(c.nc, "QUIT\r\n"); err != nil {
		return true
	}
	if _, err := c.in.read(); err != nil { // whatever it says
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	return c.ends(c.nc)
}

// HangUp says nothing more, waits until the host closes the connection, no
// longer than patience, and closes. It tells whether the host did.
func (c *Conn) HangUp(patience time.Duration) (closed bool) {
	defer c.Close()
	half, ok := c.raw.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.raw.SetDeadline(time.Now().Add(patience)) != nil {
		return true
	}
	return c.ends(c.raw)
}

// ends reads until the host has closed. One that goes on talking is not
// listened to.
func (c *Conn) ends(r io.Reader) bool {
	var b [512]byte
	for range 64 {
		if _, err := r.Read(b[:]); err != nil {
			return !errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
	return false
}

// Farewell says QUIT, waits for nothing, and closes.
func (c *Conn) Farewell(patience time.Duration) {
	if c.nc.SetWriteDeadline(time.Now().Add(patience)) == nil {
		_, _ = io.WriteString(c.nc, "QUIT\r\n") // a courtesy
	}
	c.Close()
}
