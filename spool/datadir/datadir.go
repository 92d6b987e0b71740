// Package datadir is the directory that a spool lives in: who may use it, what
// it is, whose data it holds and how often it was started. The log in it is
// package wal's.
//
// The directory holds four things:
//
//	lock    locked while a process uses the directory
//	format  what the directory is and its StoreID: written once
//	start   the number of the last start, under which boot and mount it ran,
//	        and whether it ended cleanly
//	log/    the files of the log
//
// Package spool opens it before the log and closes it after; the offline
// commands read it. Every error says what is wrong, where, and how to mend it.
// A Dir is not for use from several goroutines.
package datadir

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clrelay/clrelay/internal/vfs"
)

// The names in data_dir.
const (
	lockName   = "lock"
	formatName = "format"
	startName  = "start"
	logName    = "log"
)

// startSize is the least length of the file start: the rest is empty lines.
const startSize = 256

// formatVersion is raised when a spool of an older version must not open the
// directory.
const formatVersion = 1

// Dir is a data directory in use.
type Dir struct {
	ID   [16]byte // StoreID: the identity of the data here
	Last Start    // what the start before this one left
	Now  Start    // this one

	fs   vfs.FS
	dir  string
	lock io.Closer
}

// Start is one start of a process on the directory.
type Start struct {
	Count uint32 // number of this start
	Boot  string // the boot and mount it runs under
	Clean bool   // it ended by Close
}

// LogDir is where the log of a data directory is.
func LogDir(dir string) string { return filepath.Join(dir, logName) }

// Open locks a data directory, making it if its parent exists, and counts the
// start. boot names the boot of the machine and the mount, "" if that cannot be
// told.
func Open(fsys vfs.FS, dir, boot string) (_ *Dir, err error) {
	s := &Dir{fs: fsys, dir: dir}
	if err := s.mkdir(s.dir, filepath.Dir(s.dir)); err != nil {
		return nil, err
	}
	if err := s.refuseForeign(); err != nil {
		return nil, err
	}
	if s.lock, err = s.fs.Lock(filepath.Join(s.dir, lockName)); err != nil {
		if errors.Is(err, vfs.ErrLocked) {
			return nil, fmt.Errorf("spool: %s is in use by another process: a data_dir serves one clrelay at a time; stop the other one or give this one its own: %w", s.dir, err)
		}
		return nil, fmt.Errorf("spool: %w", err)
	}
	defer func() {
		if err != nil {
			_ = s.lock.Close() // the error that counts is the first
		}
	}()
	if err := s.readFormat(); err != nil {
		return nil, err
	}
	if err := s.readStart(); err != nil {
		return nil, err
	}
	logDir := LogDir(s.dir)
	if s.Last.Count > 0 {
		if _, err := s.fs.ReadDir(logDir); err != nil {
			return nil, fmt.Errorf("spool: %s was in use and its log is gone: bring %s back, or remove the file %s to begin with an empty spool: %w", s.dir, logDir, filepath.Join(s.dir, startName), err)
		}
	} else if err := s.mkdir(logDir, s.dir); err != nil {
		return nil, err
	}
	s.Now = Start{Count: s.Last.Count + 1, Boot: boot}
	return s, s.writeStart()
}

// refuseForeign keeps hands off a directory that is somebody else's: it would
// be closed to everybody but the relay. What the first start leaves when it is
// cut off, and what a file system puts into its root, does not count.
func (s *Dir) refuseForeign() error {
	names, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("spool: data_dir %s: %w", s.dir, err)
	}
	if slices.Contains(names, formatName) {
		return nil
	}
	for _, n := range names {
		switch strings.TrimSuffix(n, ".new") {
		case lockName, formatName, startName, logName, "lost+found":
		default:
			return fmt.Errorf("spool: data_dir %s holds other things (%s) and no spool: give the relay a folder of its own", s.dir, n)
		}
	}
	return nil
}

func (s *Dir) mkdir(dir, parent string) error {
	err := s.fs.Mkdir(dir, 0o700)
	if err == nil {
		err = s.fs.SyncDir(parent)
	} else if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("spool: making %s: %w", dir, err)
	}
	return nil
}

// readFormat checks that the directory is ours, or makes it ours if it is
// new.
func (s *Dir) readFormat() error {
	name := filepath.Join(s.dir, formatName)
	text, err := readFile(s.fs, name)
	if errors.Is(err, fs.ErrNotExist) {
		if names, err := s.fs.ReadDir(filepath.Join(s.dir, logName)); err == nil && len(names) > 0 {
			return fmt.Errorf("spool: %s holds a log, but no file %s, which says what the log is: bring it back from a copy of the directory", s.dir, formatName)
		}
		if _, err := rand.Read(s.ID[:]); err != nil {
			return fmt.Errorf("spool: making a store ID: %w", err)
		}
		return s.replace(formatName, fmt.Sprintf("clrelay data directory\nformat %d\nstore %x\n", formatVersion, s.ID))
	}
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	s.ID, err = parseFormat(text)
	if err != nil {
		return fmt.Errorf("spool: %s: %w", name, err)
	}
	return nil
}

func parseFormat(text string) (id [16]byte, err error) {
	var version int
	var hexID string
	if n, _ := fmt.Sscanf(text, "clrelay data directory\nformat %d\nstore %32s\n", &version, &hexID); n < 1 {
		return id, errors.New("not the file of a clrelay data directory, or damaged: bring it back from a copy of the directory")
	}
	if version != formatVersion {
		return id, fmt.Errorf("format %d: this clrelay knows format %d; use the version that wrote it", version, formatVersion)
	}
	if b, err := hex.DecodeString(hexID); err != nil || copy(id[:], b) != len(id) {
		return id, errors.New("bad store ID: bring the file back from a copy of the directory")
	}
	return id, nil
}

func (s *Dir) readStart() error {
	name := filepath.Join(s.dir, startName)
	text, err := readFile(s.fs, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	for line := range strings.Lines(text) {
		key, val, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "start":
			_, err = fmt.Sscanf(val, "%d", &s.Last.Count)
		case "boot":
			s.Last.Boot = val
		case "clean":
			s.Last.Clean = val == "yes"
		}
		if err != nil {
			break
		}
	}
	if err != nil || s.Last.Count == 0 {
		return fmt.Errorf("spool: %s is damaged: it counts the starts; write \"start N\" into it with an N above every start so far (the log lines of each start tell it)", name)
	}
	return nil
}

func (s *Dir) writeStart() error {
	clean := "no"
	if s.Now.Clean {
		clean = "yes"
	}
	text := fmt.Sprintf("start %d\nboot %s\nclean %s\n", s.Now.Count, s.Now.Boot, clean)
	text += strings.Repeat("\n", max(startSize-len(text), 0))
	err := s.replace(startName, text)
	if vfs.NoSpace(err) && s.overwrite(startName, text) == nil {
		// A full disk must not keep the queue from being delivered.
		return nil
	}
	return err
}

// overwrite writes a file in its place, which needs no room. The file start
// has one size and fits into one sector, so that a crash leaves the old or the
// new one here too.
func (s *Dir) overwrite(name, text string) error {
	path := filepath.Join(s.dir, name)
	f, err := s.fs.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), 0)
	if err == nil {
		err = f.Sync()
	}
	_ = s.fs.Remove(path + ".new") // it may hold the block that is missing elsewhere
	return errors.Join(err, f.Close())
}

// replace writes a small file, so that a crash leaves the old or the new one.
func (s *Dir) replace(name, text string) error {
	path := filepath.Join(s.dir, name)
	err := writeFile(s.fs, path+".new", text)
	if err == nil {
		err = s.fs.Rename(path+".new", path)
	}
	if err == nil {
		err = s.fs.SyncDir(s.dir)
	}
	if err != nil {
		return fmt.Errorf("spool: writing %s: %w", path, err)
	}
	return nil
}

// Close gives the directory back; clean says that everything is on the disk.
func (s *Dir) Close(clean bool) error {
	var err error
	if clean {
		s.Now.Clean = true
		err = s.writeStart()
	}
	return errors.Join(err, s.lock.Close())
}

// UnsyncedLost tells whether records that were written and not synced before
// the last end may be missing: the machine was restarted or the file system
// mounted anew since then, without a clean stop before.
func (s *Dir) UnsyncedLost() bool {
	return s.Last.Count > 0 && !s.Last.Clean && (s.Last.Boot != s.Now.Boot || s.Now.Boot == "")
}

func writeFile(fsys vfs.FS, name, text string) error {
	f, err := fsys.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), 0)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// readFile reads a small file.
func readFile(fsys vfs.FS, name string) (string, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	buf := make([]byte, 4096)
	n, err := f.ReadAt(buf, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("reading %s: %w", name, err)
	}
	return string(buf[:n]), nil
}

// Read takes the lock and reads a directory without changing anything in it,
// for those who look at a spool that does not run. What it cannot read is in
// errs, and the rest as good as can be; err says that the directory is in use.
// unlock gives the lock back.
func Read(fsys vfs.FS, dir string) (d *Dir, unlock func() error, errs []error, err error) {
	s := &Dir{fs: fsys, dir: dir}
	unlock = func() error { return nil }
	// Taking the lock would make the file, and a lost file is no reason to
	// make one: a directory without it is not in use.
	if _, err := fsys.Stat(filepath.Join(dir, lockName)); err == nil {
		lock, err := fsys.Lock(filepath.Join(dir, lockName))
		switch {
		case err == nil:
			unlock = lock.Close
		case errors.Is(err, vfs.ErrLocked):
			return nil, nil, nil, fmt.Errorf("spool: %s is in use: stop its clrelay first, or look at a copy: %w", dir, err)
		} // else it is read-only, most likely
	}
	text, err := readFile(fsys, filepath.Join(dir, formatName))
	if err == nil {
		s.ID, err = parseFormat(text)
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("spool: %s: %w", filepath.Join(dir, formatName), err))
	}
	if err := s.readStart(); err != nil {
		errs = append(errs, err)
	}
	return s, unlock, errs, nil
}
