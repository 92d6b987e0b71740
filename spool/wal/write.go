package wal

import (
	"fmt"
	"io"
	"time"

	"github.com/clrelay/clrelay/spool/wal/logfile"
)

// writer writes batch after batch until the log is closed and nothing is
// pending.
func (l *Log) writer() {
	defer close(l.done.writer)
	for {
		b, durable := l.take()
		if b == nil {
			return
		}
		logfile.PutHeader(b.buf.b, b.file.Inc, b.off, Header{Kind: logfile.KindMark, Seq: uint64(durable)}, 0)
		ok := l.guard("write", b.file, func() error {
			n, err := b.file.Disk.WritevAt(b.buf.buffers(), b.off)
			if err == nil && int64(n) != b.size {
				err = fmt.Errorf("%d of %d octets: %w", n, b.size, io.ErrShortWrite)
			}
			return err
		})
		if !ok || !l.wrote(b, durable) {
			return
		}
	}
}

// take waits for the next batch. nil says that there will be none.
func (l *Log) take() (*batch, Pos) {
	for {
		l.mu.Lock()
		if l.err == nil && len(l.queue) > 0 {
			b := l.queue[0]
			l.queue[0] = nil
			l.queue = l.queue[1:]
			l.writing = b
			durable := l.durable
			l.mu.Unlock()
			return b, durable
		}
		over := l.closed || l.err != nil
		l.mu.Unlock()
		if over {
			return nil, 0
		}
		select {
		case <-l.writes:
		case <-l.stop:
		case <-l.dead:
		}
	}
}

// wrote publishes a written batch.
func (l *Log) wrote(b *batch, marked Pos) bool {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return false
	}
	l.writing = nil
	l.pending -= b.size
	l.written = b.end
	l.marked = marked
	l.unsynced = append(l.unsynced, b)
	b.isWritten = true
	close(b.written)
	l.recycle(b)
	if b.records {
		l.armLazy()
	}
	l.change.Broadcast()
	l.mu.Unlock()
	// Whoever asked before the batch was in unsynced was not heard.
	if b.want.Load() {
		kick(l.syncs)
	}
	return true
}

// recycle keeps a batch's arena for the next ones. The lock is held.
func (l *Log) recycle(b *batch) {
	a := b.buf
	b.buf = nil
	if cap(a.b) > arenaMax || len(l.arenas) == arenasMax {
		return
	}
	clear(a.segs) // they hold the callers' data
	clear(a.iov)
	a.b, a.segs, a.iov = a.b[:0], a.segs[:0], a.iov[:0]
	l.arenas = append(l.arenas, a)
}

// armLazy has the syncer look again after SyncEvery. The lock is held.
func (l *Log) armLazy() {
	if !l.lazyOn {
		l.lazyOn = true
		l.lazy.Reset(l.o.SyncEvery)
	}
}

// lazyTime runs when the timer of armLazy ends.
func (l *Log) lazyTime() {
	l.mu.Lock()
	l.lazyOn, l.lazyDue = false, true
	l.mu.Unlock()
	kick(l.syncs)
}

// syncer makes durable what somebody waits for, or what has waited long
// enough, and at the end everything.
func (l *Log) syncer() {
	defer close(l.done.syncer)
	for {
		select {
		case <-l.syncs:
		case <-l.dead:
			return
		case <-l.done.writer:
			l.syncAll(l.toSync(true))
			return
		}
		for todo := l.toSync(false); len(todo) > 0; todo = l.toSync(false) {
			if !l.syncAll(todo) {
				return
			}
		}
	}
}

// toSync gives the written batches if a sync is due.
func (l *Log) toSync(final bool) []*batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	due := final
	records := false
	for _, b := range l.unsynced {
		due = due || b.want.Load()
		records = records || b.records
	}
	if l.lazyDue && records {
		due = true
	}
	if l.lazyDue && !due {
		l.markIdle()
	}
	l.lazyDue = false
	if !due {
		return nil
	}
	return l.unsynced[:len(l.unsynced):len(l.unsynced)]
}

// markIdle writes a mark of its own when nothing else happens, so that after
// a crash what is durable is known to be. The lock is held.
func (l *Log) markIdle() {
	if l.err == nil && !l.closed && len(l.queue) == 0 && l.writing == nil && l.marked < l.durable && l.cur != nil && l.fits(need{}) {
		l.openBatch()
		kick(l.writes)
	}
}

// syncAll makes batches durable, file by file.
func (l *Log) syncAll(todo []*batch) bool {
	for len(todo) > 0 {
		f := todo[0].file
		n := 1
		for n < len(todo) && todo[n].file == f {
			n++
		}
		start := time.Now()
		if !l.guard("sync", f, f.Disk.Sync) {
			return false
		}
		l.o.Synced(time.Since(start))
		if !l.synced(todo[:n]) {
			return false
		}
		todo = todo[n:]
	}
	return true
}

// synced publishes durable batches of one file.
func (l *Log) synced(done []*batch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	l.unsynced = l.unsynced[len(done):]
	if len(l.unsynced) == 0 {
		l.unsynced = nil // lets go of the batches
	}
	for _, b := range done {
		l.durable = b.end
		close(b.durable)
		if b.ends {
			l.unsealed = append(l.unsealed, b.file)
			kick(l.keeper)
		}
	}
	l.armLazy()
	return true
}

// Sync makes everything durable that was appended before.
func (l *Log) Sync() error {
	l.mu.Lock()
	b, err := l.last, l.err
	l.mu.Unlock()
	if b == nil || err != nil {
		return err
	}
	return l.waitDurable(b)
}
