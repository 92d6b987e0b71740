package spool

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/compact"
	"github.com/clrelay/clrelay/spool/content"
	"github.com/clrelay/clrelay/spool/datadir"
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/wal"
	"github.com/clrelay/clrelay/spool/wal/buffers"
)

// Errors that callers act on; all come wrapped.
var (
	// ErrFinished says that the message has no recipient left to do.
	ErrFinished = record.ErrFinished
	// ErrPoisoned says that the log failed and the process has to end.
	ErrPoisoned = wal.ErrPoisoned
	// ErrNoSpace says that the disk is too full even for a result. Nothing is
	// broken; the call may be repeated when there is room.
	ErrNoSpace = wal.ErrNoSpace
)

// The spool's nouns. They live in package state, which knows what a spool
// holds, as this one knows how to keep it.
type (
	// Message is a message of the spool that is not finished yet.
	Message = state.Message
	// RecipientState is where one recipient of a message stands.
	RecipientState = record.RecipientState
	// Result is what became of one recipient.
	Result = record.Outcome
	// Orders are what an operator said of one recipient beyond its state.
	Orders = record.Orders
	// FinalError says that recipients have a final result already.
	FinalError = state.FinalError
	// Content is the content of a message, to be read from the log as often
	// as one likes, by many at once.
	Content = content.Content
	// DamageError says which part of the log cannot be read.
	DamageError = record.DamageError
)

// Options say where the spool is and how it behaves. Dir, Node and Fatal have
// to be given.
type Options struct {
	FS   vfs.FS // default: the operating system's
	Dir  string // data_dir; made if its parent exists
	Node string // this node's name

	FileSize  int64  // of a log file; default 64 MiB
	Reserve   uint64 // free octets of the disk below which mail is refused; default 2 % of it, at most 1 GiB
	MaxBuffer int64  // octets of memory for content that is arriving; default 256 MiB
	SyncEvery time.Duration
	HangLimit time.Duration // SyncEvery and HangLimit are the log's, see wal.Options

	// Boot names the boot of the machine and the mount of Dir; default: asked
	// of the system.
	Boot string
	Now  func() time.Time // default time.Now

	Log     *slog.Logger   // default: none
	Metrics *metrics.Spool // default: some that nobody sees
	// Fatal is called once, from any goroutine, when the spool can no longer
	// keep its word: the process has to end.
	Fatal func(error)
	// Accepted is told of every message before Accept returns, outside of all
	// locks.
	Accepted func(*Message, *mail.Envelope)
	// Placement says where messages go in a cluster; nil: there is one machine,
	// and the spool opens segments of its own.
	Placement Placement
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	o.FileSize = cmp.Or(o.FileSize, 64<<20)
	o.MaxBuffer = cmp.Or(o.MaxBuffer, 256<<20)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = metrics.New().Spool
	}
	if o.Fatal == nil {
		o.Fatal = func(error) {}
	}
	if o.Accepted == nil {
		o.Accepted = func(*Message, *mail.Envelope) {}
	}
	return o
}

// Spool is an open spool.
type Spool struct {
	opts    Options
	store   *datadir.Dir
	log     *wal.Log
	buffers *buffers.Stock
	read    *content.Source
	space   spaceCheck
	limit   int // of a chunk
	// readOnly says that it was opened by View.
	readOnly bool

	compactor *compact.Compactor // its locks come before mu

	mu          sync.Mutex
	closed      bool
	suspect     bool // Open found damage; never changes
	state       *state.State
	last        *wal.Commit // the newest append; nil: none since Open
	top         wal.Pos     // no record of the log lies higher
	open        [openSegments]*state.Segment
	turn        int // of open
	nextSegment uint64
	counts      Counts
}

// Counts are the ledger of messages since this process started:
// Recovered + Accepted + TakenOver = Finished + HandedOver + those in the
// spool that are this node's.
type Counts struct {
	Recovered, Accepted, Finished uint64
	TakenOver, HandedOver         uint64 // by Claim and Disclaim
}

// Open locks the directory, reads the log and gives the spool with whatever
// was unfinished in it. Damage does not keep it from opening: it is in the
// Recovery.
func Open(o Options) (*Spool, *Recovery, error) {
	o = o.withDefaults()
	began := time.Now()
	if o.FS == vfs.OS() && o.Boot == "" {
		o.Boot = datadir.BootOf(o.Dir)
	}
	dir, err := datadir.Open(o.FS, o.Dir, o.Boot)
	if err != nil {
		return nil, nil, err
	}
	if o.FS == vfs.OS() {
		err = datadir.CloseToOthers(o.Dir, o.Log)
	}
	s := &Spool{
		opts: o, store: dir, buffers: buffers.New(o.MaxBuffer),
		state: state.New(), nextSegment: uint64(dir.Now.Count) << 32,
	}
	var rec *Recovery
	if err == nil {
		rec, err = s.recover()
	}
	if err != nil {
		if s.log != nil {
			err = errors.Join(err, s.log.Close())
		}
		return nil, nil, errors.Join(err, dir.Close(false))
	}
	rec.Duration = time.Since(began)
	return s, rec, nil
}

// View opens a spool for looking at it, without changing anything in its
// directory, which the caller has locked. Every record is read and checked.
// Nothing can be accepted or settled. id is the StoreID; zero stands for any.
func View(fsys vfs.FS, dir string, id [16]byte) (*Spool, *Recovery, error) {
	began := time.Now()
	s := &Spool{
		opts: Options{FS: fsys, Dir: dir}.withDefaults(), store: &datadir.Dir{ID: id, Now: datadir.Start{Count: math.MaxUint32}},
		state: state.New(), closed: true, readOnly: true,
	}
	s.state.OwnAll = true
	o := s.walOptions()
	o.ReadOnly, o.Verify = true, true
	found, err := s.load(o)
	if err != nil {
		return nil, nil, err
	}
	s.counts.Recovered = uint64(s.state.Messages())
	return s, &Recovery{
		Messages: s.state.Messages(), Recipients: found.Recipients, Damage: found.Damage, Duration: time.Since(began),
	}, nil
}

func (s *Spool) walOptions() wal.Options {
	return wal.Options{
		FS: s.opts.FS, Dir: datadir.LogDir(s.opts.Dir), StoreID: s.store.ID,
		FileSize: s.opts.FileSize, SyncEvery: s.opts.SyncEvery, HangLimit: s.opts.HangLimit,
		Bulk:   func(k wal.Kind) bool { return uint8(k) == record.KindChunk },
		Synced: s.opts.Metrics.FsyncDuration.Observe,
		Fatal:  s.opts.Fatal,
		Log:    s.opts.Log,
	}
}

// Close ends the spool: everything is synced and the directory is given back.
// An Accept whose content is still arriving fails; one that only waits for the
// disk ends well. The error is that of the log.
func (s *Spool) Close() error {
	if s.readOnly {
		return s.log.Close()
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.compactor.Close()
	err := s.log.Close()
	if err := errors.Join(err, s.store.Close(err == nil)); err != nil {
		return fmt.Errorf("spool: closing: %w", err)
	}
	return nil
}

// Compact frees the log files that hold nothing that is needed, and moves
// what little is needed out of others. The spool does it by itself from Each
// on; before, it must not be called.
func (s *Spool) Compact() error { return s.compactor.Compact() }

// Find gives an unfinished message by its ID.
func (s *Spool) Find(id mail.ID) (*Message, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.state.Find(id)
	return m, m != nil
}

// Stats is what the spool holds now.
type Stats struct {
	Counts
	Messages     int
	OpenSegments int
	Segments     int // with unfinished messages, the open ones included
	Files        int
	FileBytes    int64  // of the files, without spares
	LiveBytes    int64  // of what in them is still needed, about
	Free, Size   uint64 // octets of the disk
	Reserve      uint64 // below which mail is refused
}

// Stats tells what the spool holds now.
func (s *Spool) Stats() Stats {
	files := s.log.Files()
	free, size, _ := s.opts.FS.Space(s.opts.Dir) // zero where it cannot be told
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Counts: s.counts, Messages: s.state.Messages(), Segments: s.state.Segments(), LiveBytes: s.state.LiveBytes(), Files: len(files), Free: free, Size: size, Reserve: s.reserve(size)}
	st.TakenOver += s.state.Adopted()
	for _, g := range s.open {
		if g != nil {
			st.OpenSegments++
		}
	}
	for _, f := range files {
		st.FileBytes += f.Size
	}
	return st
}
