// Package wire is the shell of an SMTP session: a connection that gives
// command lines and content, and takes replies.
//
// It knows how octets come and go, who the client is, TLS, the rules of line
// ends, the parts of a command line, and what is counted in a header; it runs
// no command and knows no limit of its own making. smtpd alone uses it. A Conn
// belongs to one goroutine but for Interrupt and Close. Every wait has a
// deadline that the caller gives. After an error a Conn is good for HangUp and
// Close; a failed write makes all later ones fail.
package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// Why a connection gives no line.
var (
	ErrLineEnd     = errors.New("a line ended in something else than CRLF, or holds a NUL")
	ErrLineLong    = errors.New("a command line was too long") // and was read to its end
	ErrNoLine      = errors.New("input without the end of a line")
	ErrInterrupted = errors.New("interrupted while idle")
)

const (
	wholeLine  = 2000    // octets beyond which a line is no longer read to its end
	flushAbove = 4 << 10 // octets of replies held back at most
	keepOut    = 512     // what an idle connection keeps to write in
)

// Conn is one client's connection. It reads in small and large pieces as the
// client sends, and writes replies when the client has nothing more to be
// answered (RFC 2920 3.2).
type Conn struct {
	conn net.Conn // what is spoken over: raw, or TLS on it
	raw  net.Conn // the transport behind a PROXY header
	sock net.Conn // the transport; never changes, and carries the deadlines
	pool *Pool

	writeTime time.Duration

	in    []byte
	small []byte // what in is while the connection is idle
	r, w  int    // in[r:w] is read and not used
	full  bool   // the last read filled in
	out   []byte
	dead  error // writing failed: nothing more is written

	mu      sync.Mutex
	idle    bool // waiting for a client that owes nothing: may be interrupted
	stopped bool // interrupted
}

// New builds a Conn that borrows from pool. A batch of replies has to be
// written within writeTime.
func New(sock net.Conn, pool *Pool, writeTime time.Duration) *Conn {
	small := make([]byte, smallBuffer)
	return &Conn{conn: sock, raw: sock, sock: sock, pool: pool, writeTime: writeTime, in: small, small: small}
}

// Buffered gives what is read and not used.
func (w *Conn) Buffered() []byte { return w.in[w.r:w.w] }

// Line gives the next command line without its CRLF. It stays valid until the
// next call. The whole line has to come before deadline. With idle the wait
// ends in ErrInterrupted when the server drains.
func (w *Conn) Line(deadline time.Time, idle bool) ([]byte, error) {
	waits := false
	for seen := 0; ; {
		buf := w.Buffered()
		if i := bytes.IndexByte(buf[seen:], '\n'); i >= 0 {
			w.r += seen + i + 1
			return checkLine(buf[:seen+i+1])
		}
		// What can only end badly ends now, and not with the client's patience.
		if i := bytes.IndexByte(buf, '\r'); i >= 0 && i < len(buf)-1 || bytes.IndexByte(buf, 0) >= 0 {
			return nil, ErrLineEnd
		}
		if len(buf) > wholeLine {
			return nil, ErrNoLine
		}
		seen = len(buf)
		if err := w.Flush(); err != nil {
			return nil, err
		}
		if seen == 0 && idle {
			w.shrink()
		}
		if !waits || idle {
			if err := w.await(deadline, idle); err != nil {
				return nil, err
			}
			waits = true
		}
		err := w.fill()
		if idle && w.resume() {
			return nil, ErrInterrupted
		}
		if err != nil {
			return nil, err
		}
	}
}

// checkLine takes the CRLF off; it and nothing else ends a line (RFC 5321
// 2.3.8).
func checkLine(line []byte) ([]byte, error) {
	n := len(line) - 2
	if n < 0 || line[n] != '\r' || bytes.IndexByte(line[:n], '\r') >= 0 || bytes.IndexByte(line[:n], 0) >= 0 {
		return nil, ErrLineEnd
	}
	if len(line) > wholeLine {
		return nil, ErrLineLong
	}
	return line[:n], nil
}

// await sets the deadline of the reads to come. The order makes sure that an
// interruption is seen: it comes before the deadline is set and is noticed
// here, or behind it and wakes the read.
func (w *Conn) await(deadline time.Time, idle bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if idle && w.stopped {
		return ErrInterrupted
	}
	w.idle = idle
	return w.sock.SetReadDeadline(deadline)
}

// Interrupted tells whether Interrupt was called.
func (w *Conn) Interrupted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stopped
}

// resume ends an idle wait and tells whether it was interrupted.
func (w *Conn) resume() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idle = false
	return w.stopped
}

// Interrupt asks the owner to end as soon as it is idle. Any goroutine may
// call it.
func (w *Conn) Interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	if w.idle {
		_ = w.sock.SetReadDeadline(time.Unix(1, 0)) // a closed connection wakes by itself
	}
}

// Fill writes what is queued and reads more, until deadline.
func (w *Conn) Fill(deadline time.Time) error {
	if err := w.Flush(); err != nil {
		return err
	}
	if err := w.await(deadline, false); err != nil {
		return err
	}
	return w.fill()
}

// Use takes n octets of what Buffered gives off.
func (w *Conn) Use(n int) { w.r += n }

// fill reads once. The deadline is set already.
func (w *Conn) fill() error {
	if w.r == w.w {
		w.r, w.w = 0, 0
	}
	if w.full || w.w-w.r == len(w.in) {
		w.grow()
	}
	if w.w == len(w.in) {
		w.w = copy(w.in, w.Buffered())
		w.r = 0
	}
	for range 16 { // a reader may give nothing and no error, but not forever
		n, err := w.conn.Read(w.in[w.w:])
		w.w += n
		w.full = w.w == len(w.in)
		if n > 0 {
			return nil // an error will come again
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// Expect makes room for n octets to be read at once, as far as there is any,
// so that a content does not come in small pieces first.
func (w *Conn) Expect(n int64) {
	for size := 0; int64(len(w.in)) < n && size != len(w.in); {
		size = len(w.in)
		w.grow()
	}
}

// grow takes the next greater buffer, if there is one to be had.
func (w *Conn) grow() {
	w.full = false
	if next := w.pool.get(len(w.in)); next != nil {
		w.swap(next)
	}
}

// shrink goes back to the small buffer when nothing is left in the greater.
func (w *Conn) shrink() {
	if len(w.in) > smallBuffer && w.r == w.w {
		w.swap(w.small)
		w.full = false
	}
}

func (w *Conn) swap(next []byte) {
	n := copy(next, w.Buffered())
	w.pool.put(w.in)
	w.in, w.r, w.w = next, 0, n
}

// Close closes the connection at once. Any goroutine may call it.
func (w *Conn) Close() error { return w.sock.Close() }

// Release gives the buffers back at the end.
func (w *Conn) Release() {
	w.pool.put(w.in)
	w.in, w.small, w.out, w.r, w.w = nil, nil, nil, 0, 0
}

// Reply queues a reply. It is written when the input is used up, or when
// there are many.
func (w *Conn) Reply(r *mail.Reply) error {
	w.out = AppendReply(w.out, r)
	if len(w.out) > flushAbove {
		return w.Flush()
	}
	return nil
}

// Flush writes the queued replies.
func (w *Conn) Flush() error {
	if len(w.out) == 0 || w.dead != nil {
		return w.dead
	}
	err := w.sock.SetWriteDeadline(time.Now().Add(w.writeTime))
	if err == nil {
		_, err = w.conn.Write(w.out)
	}
	w.dead = err
	if w.out = w.out[:0]; cap(w.out) > keepOut {
		w.out = nil
	}
	return err
}

// HangUp ends a connection whose client may still be sending: what it was
// told must not be lost to a reset, so input is thrown away until the client
// closes, for limited time. Nothing of it is looked at.
func (w *Conn) HangUp(patience time.Duration) {
	if w.Flush() != nil {
		return
	}
	if c, ok := w.conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() != nil {
		return
	}
	if w.conn != w.raw {
		if c, ok := w.raw.(interface{ CloseWrite() error }); ok && c.CloseWrite() != nil {
			return
		}
	}
	if w.Interrupted() {
		patience = min(patience, time.Second)
	}
	if w.await(time.Now().Add(patience), false) != nil {
		return
	}
	w.grow()
	for {
		w.r, w.w = 0, 0
		if _, err := w.raw.Read(w.in); err != nil {
			return
		}
	}
}

// Skip throws n octets away. The caller bounds n; until gives the deadline of
// a read behind the first got octets.
func (w *Conn) Skip(n int64, until func(got int64) time.Time) error {
	for got := int64(0); got < n; {
		if w.r == w.w {
			if err := w.Fill(until(got)); err != nil {
				return err
			}
		}
		k := min(n-got, int64(w.w-w.r))
		w.r += int(k)
		got += k
	}
	return nil
}

// IsTimeout tells whether err is a deadline that passed.
func IsTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
