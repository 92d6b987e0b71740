package vfs

import (
	"io"
	"io/fs"
)

// Op is a kind of operation.
type Op uint8

// The operations that a rule can tell apart.
const (
	OpOpen Op = iota + 1
	OpRead
	OpWrite
	OpSync
	OpTruncate
	OpStat
	OpRemove
	OpRename
	OpMkdir
	OpReadDir
	OpSyncDir
	OpSpace
	OpLock
)

// Call is one operation as a rule or a watcher sees it. Off and Len are those
// of a read or write; Off is the new size of a truncation.
type Call struct {
	Op   Op
	Name string
	Off  int64
	Len  int
}

// Outcome is what a rule makes of a call. The zero value lets it pass.
type Outcome struct {
	// Wait, if it is not nil, holds the call up until it is closed.
	Wait <-chan struct{}
	// Err, if it is not nil, is returned instead of doing the call.
	Err error
	// Short is how many octets of a write that ends with Err are written
	// before.
	Short int
	// Forget makes a sync that ends with Err lose what it should have
	// written, the way Linux does: readers still see it, and no later sync
	// brings it to the disk. Only a Mem below can do it.
	Forget bool
}

// Fault is a file system that fails by rule.
type Fault struct {
	under FS
	rule  func(Call) Outcome
}

// NewFault wraps under. The rule is asked before every call, from many
// goroutines at once.
func NewFault(under FS, rule func(Call) Outcome) *Fault {
	return &Fault{under: under, rule: rule}
}

// ask waits if it must and gives the rule's word.
func (f *Fault) ask(c Call) Outcome {
	o := f.rule(c)
	if o.Wait != nil {
		<-o.Wait
	}
	return o
}

// try is ask for calls that are done or not.
func (f *Fault) try(op Op, name string) error {
	if err := f.ask(Call{Op: op, Name: name}).Err; err != nil {
		return &fs.PathError{Op: "fault", Path: name, Err: err}
	}
	return nil
}

// OpenFile is of Names.
func (f *Fault) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	if err := f.try(OpOpen, name); err != nil {
		return nil, err
	}
	under, err := f.under.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{fs: f, name: name, File: under}, nil
}

// Stat is of Names.
func (f *Fault) Stat(name string) (int64, error) {
	if err := f.try(OpStat, name); err != nil {
		return 0, err
	}
	return f.under.Stat(name)
}

// Remove is of Names.
func (f *Fault) Remove(name string) error {
	if err := f.try(OpRemove, name); err != nil {
		return err
	}
	return f.under.Remove(name)
}

// Rename is of Names; the rule sees the new name.
func (f *Fault) Rename(oldName, newName string) error {
	if err := f.try(OpRename, newName); err != nil {
		return err
	}
	return f.under.Rename(oldName, newName)
}

// Mkdir is of Dirs.
func (f *Fault) Mkdir(name string, perm fs.FileMode) error {
	if err := f.try(OpMkdir, name); err != nil {
		return err
	}
	return f.under.Mkdir(name, perm)
}

// ReadDir is of Dirs.
func (f *Fault) ReadDir(name string) ([]string, error) {
	if err := f.try(OpReadDir, name); err != nil {
		return nil, err
	}
	return f.under.ReadDir(name)
}

// SyncDir is of Dirs.
func (f *Fault) SyncDir(name string) error {
	if err := f.try(OpSyncDir, name); err != nil {
		return err
	}
	return f.under.SyncDir(name)
}

// Space is of Disk.
func (f *Fault) Space(name string) (free, total uint64, err error) {
	if err := f.try(OpSpace, name); err != nil {
		return 0, 0, err
	}
	return f.under.Space(name)
}

// Lock is of Disk.
func (f *Fault) Lock(name string) (io.Closer, error) {
	if err := f.try(OpLock, name); err != nil {
		return nil, err
	}
	return f.under.Lock(name)
}

// faultFile is a file of a Fault; Size and Close never fail by rule.
type faultFile struct {
	File
	fs   *Fault
	name string
}

func (f *faultFile) fail(err error) error {
	return &fs.PathError{Op: "fault", Path: f.name, Err: err}
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if o := f.fs.ask(Call{OpRead, f.name, off, len(p)}); o.Err != nil {
		return 0, f.fail(o.Err)
	}
	return f.File.ReadAt(p, off)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	return f.WritevAt([][]byte{p}, off)
}

func (f *faultFile) WritevAt(bufs [][]byte, off int64) (int, error) {
	total := 0
	for _, b := range bufs {
		total += len(b)
	}
	o := f.fs.ask(Call{OpWrite, f.name, off, total})
	if o.Err == nil {
		return f.File.WritevAt(bufs, off)
	}
	left := min(o.Short, total)
	done := 0
	for _, b := range bufs {
		n, err := f.File.WriteAt(b[:min(len(b), left)], off+int64(done))
		done += n
		left -= n
		if err != nil {
			return done, err
		}
		if left == 0 {
			break
		}
	}
	return done, f.fail(o.Err)
}

func (f *faultFile) Sync() error {
	o := f.fs.ask(Call{Op: OpSync, Name: f.name})
	if o.Err == nil {
		return f.File.Sync()
	}
	if m, ok := f.File.(*memFile); ok && o.Forget {
		m.forgetUnsynced()
	}
	return f.fail(o.Err)
}

func (f *faultFile) Truncate(size int64) error {
	if o := f.fs.ask(Call{Op: OpTruncate, Name: f.name, Off: size}); o.Err != nil {
		return f.fail(o.Err)
	}
	return f.File.Truncate(size)
}
