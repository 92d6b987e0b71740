package vfs

import (
	"io"
	"io/fs"
	"syscall"
)

// memFile is an open file of a Mem.
type memFile struct {
	m        *Mem
	n        *node
	name     string
	readOnly bool
	closed   bool
}

func (f *memFile) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

// check is called with the lock held.
func (f *memFile) check(op string, write bool, off int64) error {
	switch {
	case f.closed:
		return f.fail(op, fs.ErrClosed)
	case write && f.readOnly:
		return f.fail(op, syscall.EBADF)
	case off < 0:
		return f.fail(op, syscall.EINVAL)
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("read", false, off); err != nil {
		return 0, err
	}
	if off >= int64(len(f.n.data)) {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	return f.WritevAt([][]byte{p}, off)
}

// WritevAt is one change, as one pwritev is one write to the page cache.
func (f *memFile) WritevAt(bufs [][]byte, off int64) (int, error) {
	var all []byte
	for _, b := range bufs {
		all = append(all, b...)
	}
	if err := f.write(all, off); err != nil {
		return 0, err
	}
	f.m.changed(OpWrite, f.name, off, len(all))
	return len(all), nil
}

func (f *memFile) write(p []byte, off int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("write", true, off); err != nil {
		return err
	}
	if len(p) == 0 {
		return nil
	}
	if end := off + int64(len(p)); end > int64(len(f.n.data)) {
		if err := f.resize(end); err != nil {
			return err
		}
	}
	copy(f.n.data[off:], p)
	f.m.seq++
	f.n.pending = append(f.n.pending, change{seq: f.m.seq, off: off, data: p})
	return nil
}

// resize sets the size that readers see. The lock is held.
func (f *memFile) resize(size int64) error {
	have := int64(len(f.n.data))
	if f.n.links > 0 {
		if size > have && f.m.used+uint64(size-have) > f.m.capacity {
			return f.fail("write", syscall.ENOSPC)
		}
		f.m.used += uint64(size - have)
	}
	f.n.data = resized(f.n.data, size)
	return nil
}

// resized cuts, or fills up with zeros.
func resized(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		clear(b[size:])
		return b[:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

func (f *memFile) Truncate(size int64) error {
	if err := f.truncate(size); err != nil {
		return err
	}
	f.m.changed(OpTruncate, f.name, size, 0)
	return nil
}

func (f *memFile) truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("truncate", true, size); err != nil {
		return err
	}
	if err := f.resize(size); err != nil {
		return err
	}
	f.m.seq++
	f.n.pending = append(f.n.pending, change{seq: f.m.seq, size: size})
	return nil
}

func (f *memFile) Sync() error {
	if err := f.sync(); err != nil {
		return err
	}
	f.m.changed(OpSync, f.name, 0, 0)
	return nil
}

func (f *memFile) sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("sync", false, 0); err != nil {
		return err
	}
	for _, c := range f.n.pending {
		f.n.disk = c.apply(f.n.disk)
	}
	f.n.pending = nil
	return nil
}

// forgetUnsynced does what a failed fsync does on Linux: readers go on seeing
// what was written, but it counts as written back, so that no later sync will
// bring it to the disk.
func (f *memFile) forgetUnsynced() {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.n.pending = nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("stat", false, 0); err != nil {
		return 0, err
	}
	return int64(len(f.n.data)), nil
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check("close", false, 0); err != nil {
		return err
	}
	f.closed = true
	return nil
}

func (c change) apply(disk []byte) []byte {
	if c.data == nil {
		return resized(disk, c.size)
	}
	if end := c.off + int64(len(c.data)); end > int64(len(disk)) {
		disk = resized(disk, end)
	}
	copy(disk[c.off:], c.data)
	return disk
}
