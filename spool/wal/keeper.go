package wal

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/wal/logfile"
)

const (
	zeroStep  = 1 << 20 // octets of zeros that are written and synced at once, so that the log's own syncs stay short
	spaceOver = 1 << 20 // room that has to remain beside a new file
)

// pool gives out file numbers. Its lock is held from when a number is taken
// until the file that carries it is a spare, so that spares come in the order
// of their numbers.
type pool struct {
	mu   sync.Mutex
	next uint32 // number
	slot uint64 // of the next file name
}

// keep is the keeper: it seals complete files and prepares spares.
func (l *Log) keep() {
	defer close(l.done.keeper)
	for {
		l.house()
		select {
		case <-l.keeper:
		case <-l.retryDelay():
		case <-l.dead:
			return
		case <-l.done.syncer:
			l.house() // what the last sync completed
			return
		}
	}
}

// retryDelay tells when to look for room again, if the last attempt at a
// spare failed.
func (l *Log) retryDelay() <-chan time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spareErr == nil {
		return nil
	}
	return time.After(spareDelay)
}

// house does what there is to do.
func (l *Log) house() {
	for {
		l.mu.Lock()
		var f *file
		if len(l.unsealed) > 0 {
			f = l.unsealed[0]
		}
		want := !l.closed && (l.spareAsked || len(l.spares) < l.o.Spares && !time.Now().Before(l.spareRetry))
		bad := l.err != nil
		l.mu.Unlock()
		switch {
		case bad:
			return
		case f != nil:
			if !l.sealFull(f) {
				return
			}
		case want:
			l.addSpare()
		default:
			return
		}
	}
}

// sealFull writes the footer of a file that was filled.
func (l *Log) sealFull(f *file) bool {
	done := f.SealFull(func(step func() error) bool { return l.guard("seal", f, step) })
	if done == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	done()
	l.unsealed = l.unsealed[1:]
	kick(l.housed)
	return l.err == nil
}

// addSpare makes one spare and tells those who wait for it.
func (l *Log) addSpare() {
	f, err := l.newFile()
	if err == nil {
		err = l.intoPool(f)
	}
	if err != nil {
		if vfs.NoSpace(err) {
			err = fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
		err = fmt.Errorf("wal: prepare a file: %w", err)
	}
	l.mu.Lock()
	fresh := err != nil && !l.closed && l.spareErr == nil
	l.spareErr = err
	l.spareRetry = time.Time{}
	if err != nil {
		l.spareRetry = time.Now().Add(spareDelay)
	} else {
		kick(l.housed)
	}
	l.spareAsked = false
	l.spareTries++
	l.change.Broadcast()
	l.mu.Unlock()
	if fresh {
		l.o.Log.Warn("no spare log file", "dir", l.o.Dir, "err", err)
	}
}

// newFile makes a file of zeros. It has no number yet, and a name under which
// recovery removes it.
func (l *Log) newFile() (*file, error) {
	free, _, err := l.o.FS.Space(l.o.Dir)
	if err != nil {
		return nil, err
	}
	if free < uint64(l.o.FileSize)+spaceOver {
		return nil, fmt.Errorf("%w: %d octets free in %s", ErrNoSpace, free, l.o.Dir)
	}
	l.pool.mu.Lock()
	l.pool.slot++
	f := &file{File: &logfile.File{Path: logfile.Name(l.o.Dir, l.pool.slot), Size: l.o.FileSize, Want: l.o.FileSize}}
	l.pool.mu.Unlock()
	tmp := logfile.NewName(f.Path)
	f.Disk, err = l.o.FS.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := l.zero(f); err != nil {
		// The first error is the one that matters.
		_ = f.Disk.Close()
		_ = l.o.FS.Remove(tmp)
		return nil, err
	}
	return f, nil
}

// zero fills a file with zeros, so that its blocks are really there. Unless
// somebody waits for the file, the disk is the log's own for half of the time.
func (l *Log) zero(f *file) error {
	zeros := make([]byte, min(zeroStep, f.Size))
	for off := int64(0); off < f.Size; {
		began := time.Now()
		err := l.watch("fill", f, func() error {
			n, err := f.Disk.WriteAt(zeros[:min(int64(len(zeros)), f.Size-off)], off)
			off += int64(n)
			return err
		})
		if err == nil {
			err = l.watch("sync", f, f.Disk.Sync)
		}
		if err != nil {
			return err
		}
		if !l.rest(time.Since(began)) {
			return ErrClosed
		}
	}
	return nil
}

// rest pauses the making of a spare, where there is another one. It says
// whether to go on.
func (l *Log) rest(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		l.mu.Lock()
		hurry := l.spareAsked || len(l.spares) == 0
		l.mu.Unlock()
		if hurry {
			t.Reset(0)
		}
		select {
		case <-t.C:
			return true
		case <-l.keeper: // somebody may wait by now
			defer kick(l.keeper)
		case <-l.stop:
			return false
		}
	}
}

// intoPool gives a new file its number and final name, and makes it a spare.
func (l *Log) intoPool(f *file) error {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	var full error
	ok := l.guard("rename", f, func() error {
		err := l.relabel(f)
		if err == nil {
			err = l.o.FS.Rename(logfile.NewName(f.Path), f.Path)
		}
		if err == nil {
			err = l.o.FS.SyncDir(l.o.Dir)
		}
		if vfs.NoSpace(err) {
			full, err = err, nil
		}
		return err
	})
	if full != nil { // for the directory itself; the file goes again, as well as it can
		_ = f.Disk.Close()
		_ = l.o.FS.Remove(logfile.NewName(f.Path))
		_ = l.o.FS.Remove(f.Path)
		return full
	}
	return l.pooled(f, ok)
}

// pooled makes a labelled file a spare. The pool's lock is held.
func (l *Log) pooled(f *file, ok bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ok || l.err != nil || l.closed {
		_ = f.Disk.Close() // what was to be kept is synced
		return l.err
	}
	l.spares = append(l.spares, f)
	l.change.Broadcast()
	return nil
}

// relabel gives a file the next number. The pool's lock is held.
func (l *Log) relabel(f *file) error {
	l.pool.next++
	return f.Relabel(l.o.StoreID, l.pool.next)
}

// Free gives up a sealed file with all its records. It returns when that is
// durable: the file has become a spare, or is gone. Readers are waited for.
// ErrNoFile, ErrInUse and ErrDamaged say that nothing was done.
func (l *Log) Free(number uint32) error {
	f, recycle, err := l.retire(number)
	if err != nil {
		return err
	}
	defer l.freed()
	if !recycle {
		ok := l.guard("remove", f, func() error {
			return errors.Join(f.Disk.Close(), l.o.FS.Remove(f.Path), l.o.FS.SyncDir(l.o.Dir))
		})
		if !ok {
			return l.cause()
		}
		return nil
	}
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	ok := l.guard("relabel", f, func() error { return l.relabel(f) })
	return l.pooled(f, ok)
}

// retire takes a file out of the log and tells whether it is to be a spare.
func (l *Log) retire(number uint32) (f *file, recycle bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return nil, false, err
	}
	f = l.files[number]
	switch {
	case f == nil || f.freeing:
		return nil, false, fmt.Errorf("wal: free file %d: %w", number, ErrNoFile)
	case !f.Sealed:
		return nil, false, fmt.Errorf("wal: free %s: %w", f.Path, ErrInUse)
	}
	f.freeing = true
	for f.refs > 0 && !l.closed {
		l.change.Wait()
	}
	f.freeing = false
	if err := l.usable(); err != nil {
		return nil, false, err
	}
	if f.Damaged {
		return nil, false, fmt.Errorf("wal: free %s: %w", f.Path, ErrDamaged)
	}
	delete(l.files, number)
	l.frees++
	return f, f.Size == l.o.FileSize && len(l.spares) < l.o.MaxSpares, nil
}

func (l *Log) freed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frees--
	l.change.Broadcast()
}

func (l *Log) cause() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
