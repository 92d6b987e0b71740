// Package maillog is the operator's log: one line for each event in the life
// of a message, with keys that stay the same, meant for grep and for machines.
// What developers want to know goes to slog, not here.
//
// A line is written by a typed method, one per event. Text lines are logfmt
// (key=value, values quoted where needed), the others are one JSON object;
// both carry the same keys. A key whose value is not known is left out. Keys:
//
//	time event node id from to relay attempt code enhanced delay_ms tls reply next
//	size rcpts client helo proto sender took_ms reason of kind lost site
//
// Text of a peer never breaks a line: control characters, line separators,
// invisible characters and invalid UTF-8 are escaped, long text is cut.
//
// Methods may be called from any goroutine and do not wait for the reader of
// the log: they append to a buffer that one goroutine, started by New and
// ended by Close, writes out, at most FlushEvery late. When the buffer is
// full they wait for room, but once for 100 ms in vain: then the reader is
// taken for stuck, and until it moves again lines are lost at once, counted,
// and the count is logged when there is room: mail goes on. A nil *Log takes
// every event and writes nothing.
package maillog

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Bounds of the buffer.
const (
	FlushEvery  = 200 * time.Millisecond // a line waits no longer for its write
	flushOctets = 256 << 10              // or so much has come together
	maxBuffer   = 4 << 20                // more is not kept for a slow reader
	roomWait    = 100 * time.Millisecond // for room in it, before the reader counts as stuck
	keepOctets  = 1 << 20                // a larger buffer is given back when the burst is over
	closeWait   = 5 * time.Second        // Close gives a stuck reader so long
)

// ErrStuck is what Close returns when the reader of the log took nothing for
// a while.
var ErrStuck = errors.New("maillog: the reader of the log is stuck")

// Options say how lines look.
type Options struct {
	JSON  bool             // JSON objects instead of logfmt
	Node  string           // value of the key node
	Debug bool             // also Connected and Disconnected
	Now   func() time.Time // time.Now when nil
}

// Log is a mail log. Its methods may be called from any goroutine.
type Log struct {
	o       Options
	w       io.Writer
	wake    chan struct{} // the buffer is no longer empty
	full    chan struct{} // the buffer should be written soon
	closing chan struct{}
	done    chan struct{}
	once    sync.Once

	mu       sync.Mutex
	buf      []byte
	room     chan struct{} // closed when buf is taken; nil when nobody waits
	stuck    bool          // somebody waited in vain
	reported uint64        // lost lines that a line told of
	lost     uint64
	err      error // the first error of w
}

// New starts a log that writes whole lines to w. The caller ends it with
// Close.
func New(w io.Writer, o Options) *Log {
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Log{
		o: o, w: w,
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1),
		closing: make(chan struct{}), done: make(chan struct{}),
	}
	go l.run()
	return l
}

// Lost tells how many lines were lost to a full buffer or a failed write.
func (l *Log) Lost() uint64 {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// Close writes what is buffered, ends the goroutine and returns the first
// error of the writer. Events that come later are lost.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.once.Do(func() { close(l.closing) })
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-l.done:
	case <-timer.C:
		return ErrStuck
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// run writes the buffer out until Close.
func (l *Log) run() {
	defer close(l.done)
	timer := time.NewTimer(FlushEvery)
	timer.Stop()
	var spare []byte
	for {
		select {
		case <-l.wake:
		case <-l.closing:
			l.flush(spare)
			return
		}
		timer.Reset(FlushEvery)
		select {
		case <-timer.C:
		case <-l.full:
		case <-l.closing:
		}
		timer.Stop()
		spare = l.flush(spare)
	}
}

// flush writes the buffer and leaves spare in its place. It returns what it
// wrote as the next spare.
func (l *Log) flush(spare []byte) []byte {
	l.mu.Lock()
	out := l.buf
	l.buf = spare[:0]
	l.stuck = false
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
	select {
	case <-l.full: // a signal for what is being written now
	default:
	}
	l.mu.Unlock()
	if len(out) == 0 {
		return out
	}
	n, err := l.w.Write(out)
	if err == nil {
		if cap(out) > keepOctets && len(out) < keepOctets/2 {
			return nil // the burst is over
		}
		return out
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range out[min(max(n, 0), len(out)):] {
		if c == '\n' {
			l.lost++
		}
	}
	if l.err == nil {
		l.err = fmt.Errorf("maillog: write: %w", err)
	}
	return out
}

// begin starts a line of that event. It returns with l.mu held, and l.end
// must follow; false means that there is no room and nothing is held.
func (l *Log) begin(event string) (line, bool) {
	if l == nil {
		return line{}, false
	}
	now := l.o.Now()
	l.mu.Lock()
	for len(l.buf) >= maxBuffer {
		if !l.waitRoom() {
			l.lost++
			l.mu.Unlock()
			return line{}, false
		}
	}
	if l.lost != l.reported {
		lost := l.start(now, "lost")
		lost.num("lost", int64(l.lost-l.reported))
		l.reported = l.lost
		l.buf = lost.finish()
	}
	return l.start(now, event), true
}

// waitRoom gives up l.mu until the buffer is taken; false means that it was
// not in time.
func (l *Log) waitRoom() bool {
	if l.stuck {
		return false
	}
	if l.room == nil {
		l.room = make(chan struct{})
	}
	room := l.room
	l.mu.Unlock()
	timer := time.NewTimer(roomWait)
	defer timer.Stop()
	select {
	case <-room:
		l.mu.Lock()
		return true
	case <-timer.C:
		l.mu.Lock()
		l.stuck = l.room == room // nil or another when it was taken meanwhile
		return !l.stuck
	}
}

func (l *Log) start(now time.Time, event string) line {
	ln := line{b: l.buf, json: l.o.JSON}
	if ln.json {
		ln.b = append(ln.b, '{')
	}
	ln.time("time", now)
	ln.word("event", event)
	if l.o.Node != "" {
		ln.str("node", l.o.Node)
	}
	return ln
}

// end takes the line into the buffer.
func (l *Log) end(ln line) {
	first := len(l.buf) == 0
	l.buf = ln.finish()
	soon := len(l.buf) >= flushOctets
	l.mu.Unlock()
	if first {
		signal(l.wake)
	}
	if soon {
		signal(l.full)
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
