package wal

import (
	"errors"
	"time"
)

// closeGrace is how long Close waits for the goroutines of a poisoned log.
const closeGrace = time.Second

// Close writes and syncs what is pending, seals the last file and ends the
// log. It waits for readers and for Free. It must not be called twice. A
// poisoned log closes too, as far as nobody hangs in the kernel; what it says
// is the poison.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	close(l.stop)
	l.change.Broadcast()
	l.mu.Unlock()
	if !l.o.ReadOnly {
		select {
		case <-l.done.keeper:
		case <-l.dead:
			if !l.ended() {
				return l.cause()
			}
		}
		l.lazy.Stop()
	}
	l.mu.Lock()
	for l.busy() && l.err == nil {
		l.change.Wait()
	}
	cur, err := l.cur, l.err
	if err != nil && l.busy() {
		l.mu.Unlock()
		return err
	}
	l.mu.Unlock()
	if cur != nil && err == nil {
		l.sealCurrent(cur)
	}
	return l.closeFiles()
}

// sealCurrent seals the file that was being filled. Nobody else has a use for
// it any more, but may still look at it.
func (l *Log) sealCurrent(cur *file) {
	f := *cur.File
	f.End = l.off
	if l.guard("seal", cur, f.SealShort) {
		l.mu.Lock()
		*cur.File = f
		l.mu.Unlock()
	}
}

func (l *Log) closeFiles() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.err
	for _, f := range l.files {
		err = errors.Join(err, f.Disk.Close())
	}
	for _, f := range l.spares {
		err = errors.Join(err, f.Disk.Close())
	}
	return err
}

// ended tells whether the goroutines of a poisoned log end soon: one of them
// may hang in the kernel.
func (l *Log) ended() bool {
	limit := time.After(closeGrace)
	for _, done := range []chan struct{}{l.done.writer, l.done.syncer, l.done.keeper} {
		select {
		case <-done:
		case <-limit:
			return false
		}
	}
	return true
}

// busy tells whether anybody reads or frees. The lock is held.
func (l *Log) busy() bool {
	if l.frees > 0 {
		return true
	}
	for _, f := range l.files {
		if f.refs > 0 {
			return true
		}
	}
	return false
}
