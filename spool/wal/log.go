package wal

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/wal/logfile"
)

// Errors that callers act on; all come wrapped.
var (
	// ErrPoisoned says that a write or sync failed or hung, now or before.
	// The process has to end; what was not acknowledged may or may not be
	// found at the next start.
	ErrPoisoned = errors.New("log is poisoned")
	// ErrNoSpace says that the disk has no room for another file. Nothing is
	// broken: freeing files or making room mends it.
	ErrNoSpace = errors.New("no space for another log file")
	// ErrTooLarge says that an append would not fit into an empty file.
	ErrTooLarge = errors.New("larger than a log file")
	// ErrClosed says that Close was called.
	ErrClosed = errors.New("log is closed")
	// ErrReadOnly says that the log was opened for reading only.
	ErrReadOnly = errors.New("log is open for reading only")
	// ErrNoFile says that there is no such file, or no more.
	ErrNoFile = errors.New("no such log file")
	// ErrInUse says that a file is still being written or sealed.
	ErrInUse = errors.New("log file is in use")
	// ErrDamaged says that a file has unreadable records and is kept for
	// that.
	ErrDamaged = errors.New("log file is damaged")
	// ErrNotWritten says that nothing has been written at a place yet.
	ErrNotWritten = errors.New("not written yet")
)

// Options say where the log is and how it behaves. FS, Dir and StoreID have
// to be given.
type Options struct {
	FS      vfs.FS
	Dir     string   // exists, and holds nothing but the log's files
	StoreID [16]byte // files of other stores are reported and left alone; with ReadOnly zero stands for any

	FileSize   int64         // of new files, a multiple of 4096; default 64 MiB
	Spares     int           // files kept ready; default 2
	MaxSpares  int           // freed files kept for use again; default 8
	MaxPending int64         // octets that may wait to be written before Append waits; default 32 MiB
	SyncEvery  time.Duration // how long what nobody waits for may stay unsynced; default 100 ms
	HangLimit  time.Duration // after which a write or sync counts as failed; default 5 s

	// Bulk names the kinds whose data are not needed when opening. Open and
	// Scan give nil for their data.
	Bulk func(Kind) bool
	// ReadOnly changes nothing on the disk; Append and Free fail.
	ReadOnly bool
	// Verify reads every record's data when opening, instead of footers.
	Verify bool

	Synced func(took time.Duration) // called after each sync of the log; must not block
	Fatal  func(error)              // called once when the log is poisoned, from any goroutine; must not call the log
	Log    *slog.Logger             // default: none
}

func (o Options) withDefaults() (Options, error) {
	o.FileSize = cmp.Or(o.FileSize, 64<<20)
	o.Spares = cmp.Or(o.Spares, 2)
	o.MaxSpares = max(cmp.Or(o.MaxSpares, 8), o.Spares)
	o.MaxPending = cmp.Or(o.MaxPending, 32<<20)
	o.SyncEvery = cmp.Or(o.SyncEvery, 100*time.Millisecond)
	o.HangLimit = cmp.Or(o.HangLimit, 5*time.Second)
	if o.Bulk == nil {
		o.Bulk = func(Kind) bool { return false }
	}
	if o.Synced == nil {
		o.Synced = func(time.Duration) {}
	}
	if o.Fatal == nil {
		o.Fatal = func(error) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.FileSize < logfile.MinSize || o.FileSize > logfile.MaxSize || o.FileSize%4096 != 0 {
		return o, fmt.Errorf("wal: file size %d: want a multiple of 4096 from %d to %d", o.FileSize, logfile.MinSize, logfile.MaxSize)
	}
	return o, nil
}

// Log is an open log.
type Log struct {
	o      Options
	pool   pool
	keeper chan struct{} // wakes the keeper
	housed chan struct{} // has room for one; see Housed
	writes chan struct{} // wakes the writer
	syncs  chan struct{} // wakes the syncer
	stop   chan struct{} // closed when Close begins: no more appends will come
	dead   chan struct{} // closed when the log is poisoned
	lazy   *time.Timer
	done   struct{ writer, syncer, keeper chan struct{} }

	mu     sync.Mutex
	change *sync.Cond // what blocked appends, Free and Close wait for
	err    error      // ErrPoisoned with its cause
	closed bool
	files  map[uint32]*file // all that hold records
	spares []*file          // the lowest number first
	cur    *file            // the one being filled; nil before the first append
	off    int64            // where the next record goes

	queue    []*batch // not yet taken by the writer
	pending  int64    // octets in queue
	writing  *batch
	unsynced []*batch // written and not yet durable
	last     *batch   // the newest
	written  Pos
	durable  Pos
	marked   Pos     // what the newest mark states
	lazyOn   bool    // the timer runs
	lazyDue  bool    // the time of what nobody waits for has come
	unsealed []*file // complete, for the keeper to seal
	frees    int     // calls of Free at work

	spareAsked bool      // an append waits for a spare
	spareTries uint64    // attempts to make one that have ended
	spareErr   error     // how the last one ended
	spareRetry time.Time // no further attempt before, after a failure
	arenas     []*arena
}

// file is one file of the log. What of it can change while readers are about
// belongs to the log's lock.
type file struct {
	*logfile.File
	refs    int  // readers
	freeing bool // Free waits for the last of them
}

// FileInfo describes a file that holds records.
type FileInfo struct {
	Number  uint32
	Path    string
	Size    int64 // on the disk
	End     int64 // of the records
	Sealed  bool  // complete, durable and footed: may be scanned and freed
	Damaged bool  // will not be freed
}

// Files lists the files that hold records, in the order of the log. The last
// one may be the one being filled.
func (l *Log) Files() []FileInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]FileInfo, 0, len(l.files))
	for _, f := range l.files {
		info := FileInfo{Number: f.Num, Path: f.Path, Size: f.Size, End: f.End, Sealed: f.Sealed, Damaged: f.Damaged}
		if f == l.cur {
			info.End = l.off
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b FileInfo) int { return cmp.Compare(a.Number, b.Number) })
	return out
}

// Durable is the place up to which the log is durable.
func (l *Log) Durable() Pos {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// Housed tells, with a value for any number of times, that a file was sealed
// or a spare made: what could not be freed or moved before may be now.
func (l *Log) Housed() <-chan struct{} { return l.housed }

// Spares tells how many files are ready for use.
func (l *Log) Spares() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.spares)
}

// Blocked tells why Append fails now or will soon: the log is poisoned, or it
// can get no new file, so that what is left of the current one is better kept
// for AppendReserved. It is nil while all is well.
func (l *Log) Blocked() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return l.err
	case len(l.spares) > 0:
		return nil
	}
	return l.spareErr
}

// MaxAppend tells how much RecordSize the records of one Append may have
// together.
func (l *Log) MaxAppend() int64 {
	return l.o.FileSize - logfile.DataStart - 3*HeaderSize - logfile.TrailerSize
}

// usable tells why the log takes no more. The lock is held.
func (l *Log) usable() error {
	switch {
	case l.err != nil:
		return l.err
	case l.closed:
		return fmt.Errorf("wal: %w", ErrClosed)
	case l.o.ReadOnly:
		return fmt.Errorf("wal: %w", ErrReadOnly)
	}
	return nil
}

// poison ends the log's life: all who wait fail, and all who come.
func (l *Log) poison(cause error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = fmt.Errorf("wal: %w: %w", ErrPoisoned, cause)
	if l.writing != nil {
		l.writing.fail(l.err)
	}
	for _, b := range l.queue {
		b.fail(l.err)
	}
	for _, b := range l.unsynced {
		b.fail(l.err)
	}
	l.queue, l.unsynced = nil, nil
	close(l.dead)
	l.change.Broadcast()
	l.mu.Unlock()
	l.o.Fatal(l.err)
}

// watch runs a write or sync under the watchdog, which poisons the log if it
// hangs.
func (l *Log) watch(what string, f *file, do func() error) error {
	w := &watchdog{step: l.o.HangLimit / watchSteps, left: watchSteps, bark: func() {
		l.poison(fmt.Errorf("%s %s: no answer from the disk for %v", what, f.Path, l.o.HangLimit))
	}}
	w.timer.Store(time.AfterFunc(w.step, w.look))
	defer w.end()
	return do()
}

// watchSteps is in how many steps a hang is counted.
const watchSteps = 10

// watchdog counts steps of time in which a disk did not answer, and not the
// time itself: a process that was stopped for long counts one step when it goes
// on, for its disk had no chance to answer.
type watchdog struct {
	step  time.Duration
	left  int // read and written by look alone
	bark  func()
	done  atomic.Bool
	timer atomic.Pointer[time.Timer]
}

func (w *watchdog) end() {
	w.done.Store(true)
	if t := w.timer.Load(); t != nil {
		t.Stop()
	}
}

func (w *watchdog) look() {
	if w.done.Load() {
		return
	}
	if w.left--; w.left <= 0 {
		w.bark()
		return
	}
	if t := w.timer.Load(); t != nil {
		t.Reset(w.step)
	} else { // the first step was over before the timer was noted
		w.timer.Store(time.AfterFunc(w.step, w.look))
	}
}

// guard is watch for what must not fail either. It tells whether the log is
// still good.
func (l *Log) guard(what string, f *file, do func() error) bool {
	if err := l.watch(what, f, do); err != nil {
		l.poison(fmt.Errorf("%s %s: %w", what, f.Path, err))
	}
	select {
	case <-l.dead:
		return false
	default:
		return true
	}
}

// kick wakes a goroutine that reads from ch, now or when it next looks.
func kick(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
