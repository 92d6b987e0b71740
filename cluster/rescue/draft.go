package rescue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/clrelay/clrelay/cluster/raftnode/store"
)

// Draft is a backup that is being written, in a file of its own beside the one
// that it becomes: under the name of a backup there is a whole one or none.
type Draft struct {
	f    *os.File
	path string
}

// Create begins a backup. Its file must not exist.
func Create(path string) (*Draft, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("rescue: %w", &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist})
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".part-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("rescue: %w", err)
	}
	return &Draft{f, path}, nil
}

// Write is of io.Writer.
func (d *Draft) Write(p []byte) (int, error) {
	n, err := d.f.Write(p)
	if err != nil {
		err = fmt.Errorf("rescue: %w", err)
	}
	return n, err
}

// Look tells what was written, if that is a backup.
func (d *Draft) Look() (Report, error) {
	state, err := Read(d.f.Name())
	if err != nil {
		return Report{}, err
	}
	return Node{}.Look(state)
}

// Keep gives what was written its name, durably, or removes it.
func (d *Draft) Keep() error {
	err := d.f.Sync()
	if e := d.f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = move(d.f.Name(), d.path)
	}
	if err != nil {
		_ = os.Remove(d.f.Name()) // the first error is told
		return fmt.Errorf("rescue: writing %s: %w", d.path, err)
	}
	return store.SyncDir(filepath.Dir(d.path))
}

// Discard removes what was written. After Keep it does nothing.
func (d *Draft) Discard() {
	if d.f.Close() == nil {
		_ = os.Remove(d.f.Name()) // nobody takes it for a backup
	}
}

// move gives a file another name, which nobody may have.
func move(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // not every file system can
		if err = os.Link(from, to); err == nil {
			err = os.Remove(from)
		}
	}
	return err
}

// Write writes a backup to a file that must not exist, durably.
func Write(path string, state []byte) error {
	d, err := Create(path)
	if err != nil {
		return err
	}
	defer d.Discard()
	if _, err := d.Write(state); err != nil {
		return err
	}
	return d.Keep()
}
