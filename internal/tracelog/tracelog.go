// Package tracelog remembers what happened to which message, so that an
// operator can ask: where is it, or where was it?
//
// Every event in the life of a message is written down in a few hundred
// octets. Records gather in memory and in a journal; half a megabyte of them
// becomes a chunk, compressed, with a Bloom filter of what its records can be
// found by: the IDs of messages, Message-IDs, addresses of senders and
// recipients, and what next hops called them in their 250. Chunks lie one
// behind another in files, which are removed whole: the oldest go when they
// are older than is asked for, or too many, or when the disk gets full.
//
// Mail never waits for it. The methods that take an event encode it into a
// buffer under a mutex, in a quarter of a microsecond; one goroutine, started
// by Open and ended by Close, does the rest. Where the disk is too slow or
// fails, events are lost: counted, and told with every answer.
//
// The journal is written FlushEvery late and not synced: the crash of a process
// loses less than a second of events, that of a machine what its kernel had
// not written. What is torn or damaged is skipped and named.
//
// Methods may be called from any goroutine. A nil *Log takes every event and
// knows none.
package tracelog

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/tracelog/record"
	"github.com/clrelay/clrelay/internal/vfs"
)

// Bounds.
const (
	FlushEvery = 200 * time.Millisecond // an event waits no longer for its write
	flushAt    = 256 << 10              // or so many octets have come together
	maxBuffer  = 4 << 20                // more is not kept for a slow disk
	chunkSize  = 512 << 10              // of records
	fileSize   = 16 << 20               // of a file, about
	fileSpan   = 24 * time.Hour         // from its first record to its last, about
	tidyEvery  = 10 * time.Minute       // looks for files that are too old
	closeWait  = 5 * time.Second        // Close gives a stuck disk so long
)

// What events and terms are is package record's to say.
type (
	Event = record.Event
	Kind  = record.Kind
	Term  = record.Term
)

// ErrStuck is what Close returns when the disk took nothing for a while.
var ErrStuck = errors.New("tracelog: the disk is stuck")

// Options set up a Log.
type Options struct {
	Dir     string // made if need be
	Keep    time.Duration
	MaxSize int64
	Reserve uint64 // octets of the disk that are mail's; 0: 2 % of it, at most 1 GiB
	// Copies names the nodes that have a segment. It is called by the
	// goroutine of the Log alone. nil: there are no other nodes.
	Copies func(segment uint64) []string
	FS     vfs.FS // the operating system's when nil
	Now    func() time.Time
	Log    *slog.Logger
}

// Log is the traces of one node.
type Log struct {
	o       Options
	wake    chan struct{} // the buffer is no longer empty
	full    chan struct{} // the buffer should be written soon
	syncs   chan chan struct{}
	closing chan struct{}
	done    chan struct{}
	once    sync.Once

	mu  sync.Mutex
	buf []byte

	lost     atomic.Uint64
	lostLast atomic.Int64 // Unix time in microseconds

	subsMu sync.Mutex
	subs   map[*Subscription]struct{}
	nsubs  atomic.Int32

	store  *store
	copies map[uint64][]string // as far as asked for in one flush
}

// Open begins with what is in Dir. It does not fail: where the disk can't be
// used, it is tried again, and events are lost meanwhile.
func Open(o Options) *Log {
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Log{
		o: o, wake: make(chan struct{}, 1), full: make(chan struct{}, 1), syncs: make(chan chan struct{}),
		closing: make(chan struct{}), done: make(chan struct{}), subs: map[*Subscription]struct{}{}, copies: map[uint64][]string{},
	}
	l.store = newStore(&l.o, l.lose)
	go l.run()
	return l
}

// Configure sets how long and how much is kept.
func (l *Log) Configure(keep time.Duration, maxSize int64) {
	if l != nil {
		l.store.configure(keep, maxSize)
	}
}

// Lost tells how many events were lost since the process started, and when the
// last one was.
func (l *Log) Lost() (n uint64, last time.Time) {
	if l == nil {
		return 0, time.Time{}
	}
	if n = l.lost.Load(); n > 0 {
		last = time.UnixMicro(l.lostLast.Load()).UTC()
	}
	return n, last
}

// Size tells how many octets are on the disk.
func (l *Log) Size() int64 {
	if l == nil {
		return 0
	}
	return l.store.size()
}

func (l *Log) lose(n uint64) {
	if n > 0 {
		l.lostLast.Store(l.o.Now().UnixMicro())
		l.lost.Add(n)
	}
}

// Close writes what there is and ends the goroutine. Events that come later
// are lost.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.once.Do(func() { close(l.closing) })
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-l.done:
		return nil
	case <-timer.C:
		return ErrStuck
	}
}

// begin starts a record. It returns with l.mu held, and l.end must follow;
// false means that there is no room and nothing is held.
func (l *Log) begin(k Kind, id mail.ID) (record.Writer, bool) {
	if l == nil {
		return record.Writer{}, false
	}
	now := l.o.Now()
	l.mu.Lock()
	if len(l.buf) >= maxBuffer {
		l.mu.Unlock()
		l.lose(1)
		return record.Writer{}, false
	}
	return record.Begin(l.buf, k, now, id), true
}

func (l *Log) end(w *record.Writer) {
	first := len(l.buf) == 0
	l.buf = w.End()
	soon := len(l.buf) >= flushAt
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

// Accepted tells that a message is on stable storage, in a segment, and how
// long that took from the end of its content.
func (l *Log) Accepted(env *mail.Envelope, size int64, segment uint64, took time.Duration) {
	w, ok := l.begin(record.Accepted, env.ID)
	if !ok {
		return
	}
	w.Envelope(env, size)
	w.Uint(record.FieldSegment, segment)
	w.Num(record.FieldTook, took.Microseconds())
	l.end(&w)
}

// TakenOver tells that this node delivers from now on what another one had. Of
// a message whose first node is lost, it is all that is known.
func (l *Log) TakenOver(env *mail.Envelope, size int64, segment uint64) {
	w, ok := l.begin(record.TakenOver, env.ID)
	if !ok {
		return
	}
	w.Envelope(env, size)
	w.Stamp(record.FieldArrived, env.Arrived)
	w.Uint(record.FieldSegment, segment)
	l.end(&w)
}

// Rejected tells that a step of a transaction was refused; from and to are what
// the client gave.
func (l *Log) Rejected(c *mail.Client, from, to string, r *mail.Reply) {
	w, ok := l.begin(record.Rejected, mail.ID{})
	if !ok {
		return
	}
	w.Str(record.FieldFrom, from)
	w.Str(record.FieldTo, to)
	w.Client(c)
	w.Reply(r)
	l.end(&w)
}

// Fate is what became of a recipient.
type Fate struct {
	Kind     Kind
	ID       mail.ID
	From, To mail.Address
	Outcome  *mail.Outcome // of the last attempt; nil where there was none
	Attempt  int
	Delay    time.Duration
	Next     time.Time
	Reason   string // an operator's
}

// Recipient tells what became of a recipient.
func (l *Log) Recipient(f *Fate) {
	w, ok := l.begin(f.Kind, f.ID)
	if !ok {
		return
	}
	w.Addr(record.FieldFrom, f.From)
	w.Addr(record.FieldTo, f.To)
	if o := f.Outcome; o != nil {
		w.Str(record.FieldRelay, o.Remote)
		w.Str(record.FieldSource, o.Source)
		w.Str(record.FieldTLS, o.TLS)
		w.Reply(&o.Reply)
	}
	w.Num(record.FieldAttempt, int64(f.Attempt))
	w.Num(record.FieldDelay, f.Delay.Milliseconds())
	w.Stamp(record.FieldNext, f.Next)
	w.Str(record.FieldReason, f.Reason)
	l.end(&w)
}

// Reported tells that a report, id, about the message of was written.
func (l *Log) Reported(id, of mail.ID, kind string) {
	w, ok := l.begin(record.Report, id)
	if !ok {
		return
	}
	w.Str(record.FieldOf, string(of[:]))
	w.Str(record.FieldReport, kind)
	l.end(&w)
}

// Back is what came back to the return path of a message.
type Back struct {
	Of, ID   mail.ID // the message, and what came back
	From, To mail.Address
	Kind     string
	Class    string
	Reply    mail.Reply // as it was told
}

// Returned tells that something came back to the return path of a message.
func (l *Log) Returned(b *Back) {
	w, ok := l.begin(record.Returned, b.Of)
	if !ok {
		return
	}
	w.Str(record.FieldOf, string(b.ID[:]))
	w.Str(record.FieldReport, b.Kind)
	w.Str(record.FieldClass, b.Class)
	w.Addr(record.FieldFrom, b.From)
	w.Addr(record.FieldTo, b.To)
	w.Reply(&b.Reply)
	l.end(&w)
}

// run is the goroutine.
func (l *Log) run() {
	defer close(l.done)
	timer := time.NewTimer(FlushEvery)
	timer.Stop()
	tidy := time.NewTicker(tidyEvery)
	defer tidy.Stop()
	l.store.open()
	var spare []byte
	for {
		var told chan struct{}
		select {
		case <-l.wake:
			timer.Reset(FlushEvery)
			select {
			case <-timer.C:
			case <-l.full:
			case told = <-l.syncs:
			case <-l.closing:
			}
			timer.Stop()
		case told = <-l.syncs:
		case <-tidy.C:
			l.store.tidy()
		case <-l.closing:
			l.flush(spare)
			l.store.close()
			return
		}
		spare = l.flush(spare)
		if told != nil {
			close(told)
		}
	}
}

// flush takes the buffer and leaves spare in its place. It returns what it
// took as the next spare.
func (l *Log) flush(spare []byte) []byte {
	l.mu.Lock()
	out := l.buf
	l.buf = spare[:0]
	select {
	case <-l.full: // a signal for what is being taken now
	default:
	}
	l.mu.Unlock()
	if len(out) == 0 {
		return out
	}
	clear(l.copies)
	records := l.complete(out)
	if l.nsubs.Load() > 0 {
		l.publish(records)
	}
	l.store.add(records)
	if cap(out) > maxBuffer/4 {
		return nil // the burst is over
	}
	return out
}

// complete gives the records in a memory of their own, with the names of the
// nodes that have copies in the place of segments.
func (l *Log) complete(in []byte) []byte {
	out := make([]byte, 0, len(in)+len(in)/8)
	for len(in) > 0 {
		r, rest, err := record.Next(in)
		if err != nil {
			break // our own octets: never
		}
		in = rest
		start := len(out)
		out = append(out, 0, 0, 0, 0)
		out = append(out, r...)
		if k := r.Kind(); k == record.Accepted || k == record.TakenOver {
			out = l.named(out, r)
		}
		binary.LittleEndian.PutUint32(out[start:], uint32(len(out)-start-record.LengthSize))
	}
	return out
}

// named appends the names of the nodes that have the segment of a record.
func (l *Log) named(out []byte, r record.Record) []byte {
	segment := uint64(0)
	_ = r.Fields(func(field byte, _ []byte, n uint64) { // our own octets
		if field == record.FieldSegment {
			segment = n
		}
	})
	if segment == 0 || l.o.Copies == nil {
		return out
	}
	nodes, ok := l.copies[segment]
	if !ok {
		nodes = l.o.Copies(segment)
		l.copies[segment] = nodes
	}
	w := record.Writer{B: out}
	for _, n := range nodes {
		w.Str(record.FieldCopy, n)
	}
	return w.B
}

// sync waits until what was told before is in the store, but not for long: a
// stuck disk is no reason not to look at the rest.
func (l *Log) sync(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	told := make(chan struct{})
	select {
	case l.syncs <- told:
	case <-l.done:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-told:
	case <-l.done:
	case <-ctx.Done():
	}
}
