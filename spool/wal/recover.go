package wal

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/wal/logfile"
)

// Open opens the log in a directory that the caller has locked, and tells
// visit all its records in order. Before it returns, all that was visited is
// durable, and what was not will never appear. visit's error ends Open.
// Damage is no error; it is in the report.
func Open(o Options, visit Visit) (*Log, *Report, error) {
	start := time.Now()
	o, err := o.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	l := &Log{
		o: o, files: map[uint32]*file{},
		keeper: make(chan struct{}, 1), housed: make(chan struct{}, 1), writes: make(chan struct{}, 1), syncs: make(chan struct{}, 1),
		stop: make(chan struct{}), dead: make(chan struct{}),
	}
	l.change = sync.NewCond(&l.mu)
	l.done.writer, l.done.syncer, l.done.keeper = make(chan struct{}), make(chan struct{}), make(chan struct{})
	r := logfile.NewReplay(o.reading(), visit)
	all, err := l.recover(r)
	if err != nil {
		for _, f := range all {
			_ = f.Disk.Close() // the first error is the one that matters
		}
		return nil, nil, err
	}
	for num := range l.files {
		l.written = max(l.written, logfile.MakePos(num+1, 0))
	}
	l.durable, l.marked = l.written, l.written
	if !o.ReadOnly {
		l.lazy = time.AfterFunc(time.Hour, l.lazyTime)
		l.lazy.Stop()
		go l.writer()
		go l.syncer()
		go l.keep()
	}
	r.Report.Files = len(l.files)
	r.Report.Took = time.Since(start)
	return l, &r.Report, nil
}

// reading gives the options that matter for reading files.
func (o Options) reading() logfile.Options {
	return logfile.Options{
		FS: o.FS, Dir: o.Dir, StoreID: o.StoreID, FileSize: o.FileSize,
		Bulk: o.Bulk, ReadOnly: o.ReadOnly, Verify: o.Verify,
	}
}

// recover reads the directory and brings the log into order. It gives every
// file it has open.
func (l *Log) recover(r *logfile.Replay) (all []*logfile.File, err error) {
	all, l.pool.slot, err = r.List()
	if err != nil {
		return all, err
	}
	n, err := r.Run(all)
	if err != nil {
		return all, err
	}
	for _, f := range all {
		l.pool.next = max(l.pool.next, f.Num)
	}
	for _, f := range all[:n] {
		l.files[f.Num] = &file{File: f}
	}
	if !l.o.ReadOnly {
		return all, l.settle(r.Synced, all[:n], all[n:])
	}
	for _, f := range all[n:] {
		if err := f.Disk.Close(); err != nil {
			return all, fmt.Errorf("wal: %w", err)
		}
	}
	return all, nil
}

// settle makes what was replayed durable, and everything behind it unreadable
// for ever. live are the files that hold records, rest those behind.
func (l *Log) settle(synced Pos, live, rest []*logfile.File) error {
	// The rest comes first: once the end of the log is sealed, what follows
	// would count as following it. And of the rest the last comes first: the
	// end of the log may be that the first of them lacks its beginning.
	for _, f := range slices.Backward(rest) {
		l.pool.mu.Lock()
		err := l.reuse(&file{File: f})
		l.pool.mu.Unlock()
		if err != nil {
			return err
		}
	}
	// What is above the last statement of durability may be in the page
	// cache only, and count as written back there if a sync of it failed
	// before: written again, a sync is worth something.
	for _, f := range live {
		if f.Sealed || f.Foot == nil {
			continue
		}
		var from int64
		switch {
		case synced.File() > f.Num:
			continue
		case synced.File() == f.Num:
			from = synced.Offset()
		}
		if err := f.Rewrite(from); err != nil {
			return err
		}
	}
	for _, f := range live {
		if f.Sealed || f.Foot == nil {
			continue
		}
		err := f.SealShort()
		if err != nil && (!f.Damaged || !vfs.NoSpace(err)) {
			return err // a damaged file may have lost the room for its end, and can do without
		}
	}
	return nil
}

// reuse makes a file that holds nothing a spare, or removes it. What is left
// of a truncated one stays where it is. The pool's lock is held.
func (l *Log) reuse(f *file) error {
	if !f.Sealed && f.Size != f.Want {
		if err := errors.Join(l.relabel(f), f.Disk.Close()); err != nil {
			return fmt.Errorf("wal: relabel %s: %w", f.Path, err)
		}
		return nil
	}
	if f.Size != l.o.FileSize || len(l.spares) >= l.o.MaxSpares {
		err := errors.Join(f.Disk.Close(), l.o.FS.Remove(f.Path), l.o.FS.SyncDir(l.o.Dir))
		if err != nil {
			return fmt.Errorf("wal: remove %s: %w", f.Path, err)
		}
		return nil
	}
	if err := l.relabel(f); err != nil {
		return fmt.Errorf("wal: relabel %s: %w", f.Path, err)
	}
	l.spares = append(l.spares, f)
	return nil
}
