package vfs

import (
	"errors"
	"io"
	"io/fs"
	"syscall"
)

// SectorSize is the unit in which a disk writes: of a write that a power
// failure cuts off, whole sectors have arrived and others have not.
const SectorSize = 512

// ErrLocked says that another process, or another part of this one, holds the
// lock.
var ErrLocked = errors.New("locked by another process")

// FS is a file system. Names are paths in the form of the operating system.
type FS interface {
	Names
	Dirs
	Disk
}

// Names are the operations on single names.
type Names interface {
	// OpenFile opens a file with the flags of package os.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Stat gives a file's size.
	Stat(name string) (size int64, err error)
	// Remove removes a file or an empty directory. It is durable once the
	// directory is synced.
	Remove(name string) error
	// Rename replaces newName in one step. It is durable once both
	// directories are synced.
	Rename(oldName, newName string) error
}

// Dirs are the operations on directories.
type Dirs interface {
	// Mkdir makes one directory; its parent exists.
	Mkdir(name string, perm fs.FileMode) error
	// ReadDir lists the names in a directory, sorted.
	ReadDir(name string) ([]string, error)
	// SyncDir makes the entries of a directory durable: what was created in
	// it, removed from it and renamed.
	SyncDir(name string) error
}

// Disk are the operations on what lies below.
type Disk interface {
	// Space tells how much the disk that holds name can still take from this
	// process, and its size, in octets.
	Space(name string) (free, total uint64, err error)
	// Lock takes the exclusive lock that the file name stands for, making the
	// file if need be, and fails with ErrLocked at once if it is taken. The
	// lock goes with Close or with the process, however that ends.
	Lock(name string) (io.Closer, error)
}

// File is an open file. There is no position: every access names its offset.
type File interface {
	io.ReaderAt
	Writer
	Sizer
	io.Closer
}

// Writer is what a file is changed with.
type Writer interface {
	io.WriterAt
	// WritevAt writes the buffers one after another from off on, in as few
	// system calls as can be. The slice of buffers may be changed by it, the
	// buffers are not.
	WritevAt(bufs [][]byte, off int64) (int, error)
	// Sync makes the content durable (fdatasync: times are left out). After
	// an error nobody knows what of the unsynced is on the disk, and a second
	// Sync that succeeds proves nothing.
	Sync() error
}

// Sizer gets and sets the size of a file.
type Sizer interface {
	Truncate(size int64) error
	Size() (int64, error)
}

// NoSpace tells whether an error says that the disk, or the user's share of
// it, is full.
func NoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
