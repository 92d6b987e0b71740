package vfs

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Mem is a file system in memory that remembers what of it a power failure
// would spare: CrashImage makes the disk as it may be found after one. The
// zero value is not usable, NewMem makes one.
//
// Permissions are ignored, a path means the same with and without a leading
// slash, and a removed file lives on for those who have it open.
type Mem struct {
	mu       sync.Mutex
	root     *node
	locks    map[string]bool
	seq      uint64 // numbers the changes
	used     uint64
	capacity uint64
	watch    func(Call)
}

// node is a file or a directory. What a crash spares is in disk and
// diskEntries; data and entries are what a reader sees, and pending and
// pendingDir lead from one to the other.
type node struct {
	isDir       bool
	links       int
	data, disk  []byte
	pending     []change
	entries     map[string]*node
	diskEntries map[string]*node
	pendingDir  []dirChange
}

// change is an unsynced write, or an unsynced new size where data is nil.
type change struct {
	seq  uint64
	off  int64
	data []byte
	size int64
}

// dirChange is an unsynced step in a directory: del goes, then add stands for
// node.
type dirChange struct {
	seq      uint64
	del, add string
	node     *node
}

// NewMem makes an empty file system.
func NewMem() *Mem {
	return &Mem{root: newDir(), locks: map[string]bool{}, capacity: math.MaxInt64}
}

func newDir() *node {
	return &node{isDir: true, entries: map[string]*node{}, diskEntries: map[string]*node{}}
}

// Watch has fn called after every change (write, truncate, sync, creation,
// removal, renaming, syncing of a directory), in the goroutine that made it
// and outside of all locks. It is to be called before the file system is used.
func (m *Mem) Watch(fn func(Call)) { m.watch = fn }

// SetCapacity bounds the octets that all files take together; what would go
// beyond fails with ENOSPC, whole, as a write to a full disk may.
func (m *Mem) SetCapacity(octets uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = octets
}

func (m *Mem) changed(op Op, name string, off int64, n int) {
	if m.watch != nil {
		m.watch(Call{Op: op, Name: name, Off: off, Len: n})
	}
}

func parts(name string) []string {
	return strings.FieldsFunc(filepath.Clean(name), func(r rune) bool { return r == '/' })
}

// find gives the directory that holds name, name's last part, and what it
// stands for (nil when nothing). The lock is held.
func (m *Mem) find(name string) (dir *node, base string, n *node, err error) {
	n = m.root
	base = "."
	for _, p := range parts(name) {
		if p == "." {
			continue
		}
		if n == nil {
			return nil, "", nil, syscall.ENOENT
		}
		if !n.isDir {
			return nil, "", nil, syscall.ENOTDIR
		}
		dir, base = n, p
		n = dir.entries[p]
	}
	return dir, base, n, nil
}

// findAll is find for a name that has to exist.
func (m *Mem) findAll(name string) (dir *node, base string, n *node, err error) {
	dir, base, n, err = m.find(name)
	if err == nil && n == nil {
		err = syscall.ENOENT
	}
	return dir, base, n, err
}

// link puts n into dir, replacing what was there. The lock is held.
func (m *Mem) link(dir *node, del, base string, n *node) {
	if del != "" {
		m.unlinked(dir.entries[del])
		delete(dir.entries, del)
	}
	if base != "" {
		m.unlinked(dir.entries[base])
		dir.entries[base] = n
		n.links++
	}
	m.seq++
	dir.pendingDir = append(dir.pendingDir, dirChange{m.seq, del, base, n})
}

func (m *Mem) unlinked(n *node) {
	if n == nil {
		return
	}
	if n.links--; n.links == 0 {
		m.used -= uint64(len(n.data))
	}
}

// OpenFile is of Names.
func (m *Mem) OpenFile(name string, flag int, _ fs.FileMode) (File, error) {
	n, created, err := m.open(name, flag)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if created {
		m.changed(OpOpen, name, 0, 0)
	}
	f := &memFile{m: m, n: n, name: name, readOnly: flag&(os.O_WRONLY|os.O_RDWR) == 0}
	if flag&os.O_TRUNC != 0 {
		return f, f.Truncate(0)
	}
	return f, nil
}

func (m *Mem) open(name string, flag int) (n *node, created bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, n, err := m.find(name)
	switch {
	case err != nil:
		return nil, false, err
	case n == nil && flag&os.O_CREATE == 0:
		return nil, false, syscall.ENOENT
	case n == nil:
		n = &node{}
		m.link(dir, "", base, n)
		return n, true, nil
	case n.isDir:
		return nil, false, syscall.EISDIR
	case flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return nil, false, syscall.EEXIST
	}
	return n, false, nil
}

// Stat is of Names.
func (m *Mem) Stat(name string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _, n, err := m.findAll(name)
	if err != nil {
		return 0, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return int64(len(n.data)), nil
}

// Remove is of Names.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	dir, base, n, err := m.findAll(name)
	if err == nil && (dir == nil || len(n.entries) > 0) {
		err = syscall.ENOTEMPTY
	}
	if err == nil {
		m.link(dir, base, "", nil)
	}
	m.mu.Unlock()
	if err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	m.changed(OpRemove, name, 0, 0)
	return nil
}

// Rename is of Names. Both names are in one directory.
func (m *Mem) Rename(oldName, newName string) error {
	m.mu.Lock()
	err := m.rename(oldName, newName)
	m.mu.Unlock()
	if err != nil {
		return &os.LinkError{Op: "rename", Old: oldName, New: newName, Err: err}
	}
	m.changed(OpRename, newName, 0, 0)
	return nil
}

func (m *Mem) rename(oldName, newName string) error {
	dir, base, n, err := m.findAll(oldName)
	if err != nil {
		return err
	}
	dir2, base2, over, err := m.find(newName)
	switch {
	case err != nil:
		return err
	case dir != dir2 || dir == nil:
		return syscall.EXDEV
	case over == n:
		return nil
	case over != nil && over.isDir:
		return syscall.EEXIST
	}
	m.link(dir, base, base2, n)
	m.used += uint64(len(n.data)) // link took it for gone
	return nil
}

// Mkdir is of Dirs.
func (m *Mem) Mkdir(name string, _ fs.FileMode) error {
	m.mu.Lock()
	dir, base, n, err := m.find(name)
	if err == nil && n != nil {
		err = syscall.EEXIST
	}
	if err == nil {
		m.link(dir, "", base, newDir())
	}
	m.mu.Unlock()
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	m.changed(OpMkdir, name, 0, 0)
	return nil
}

// ReadDir is of Dirs.
func (m *Mem) ReadDir(name string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _, n, err := m.findAll(name)
	if err == nil && !n.isDir {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return slices.Sorted(maps.Keys(n.entries)), nil
}

// SyncDir is of Dirs.
func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	_, _, n, err := m.findAll(name)
	if err == nil && !n.isDir {
		err = syscall.ENOTDIR
	}
	if err == nil {
		n.diskEntries = maps.Clone(n.entries)
		n.pendingDir = nil
	}
	m.mu.Unlock()
	if err != nil {
		return &fs.PathError{Op: "fsync", Path: name, Err: err}
	}
	m.changed(OpSyncDir, name, 0, 0)
	return nil
}

// Space is of Disk.
func (m *Mem) Space(string) (free, total uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.capacity - min(m.used, m.capacity), m.capacity, nil
}

// Lock is of Disk.
func (m *Mem) Lock(name string) (io.Closer, error) {
	f, err := m.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := filepath.Join(parts(name)...)
	if m.locks[key] {
		return nil, &fs.PathError{Op: "lock", Path: name, Err: ErrLocked}
	}
	m.locks[key] = true
	return &memLock{m, key}, nil
}

type memLock struct {
	m   *Mem
	key string
}

func (l *memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if !l.m.locks[l.key] {
		return errors.New("vfs: lock closed twice")
	}
	delete(l.m.locks, l.key)
	return nil
}
