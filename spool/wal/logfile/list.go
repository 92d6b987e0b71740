package logfile

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The names of files.
const (
	suffix    = ".wal"
	newSuffix = ".new"
)

// Name gives the path of a file of the log.
func Name(dir string, slot uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%08d%s", slot, suffix))
}

// NewName gives the path of a file that is still being filled with zeros.
// Listing removes such a file.
func NewName(path string) string { return path + newSuffix }

// List opens the log's files, in the order of their numbers, and reports what
// else is there. It gives the highest slot that a name uses.
func (r *Replay) List() (all []*File, slot uint64, err error) {
	names, err := r.o.FS.ReadDir(r.o.Dir)
	if err != nil {
		return nil, 0, fmt.Errorf("wal: list %s: %w", r.o.Dir, err)
	}
	for _, name := range names {
		path := filepath.Join(r.o.Dir, name)
		stem, isNew := strings.CutSuffix(name, newSuffix)
		n, err := strconv.ParseUint(strings.TrimSuffix(stem, suffix), 10, 63)
		if !strings.HasSuffix(stem, suffix) || err != nil {
			r.damage(&File{Path: path}, 0, 0, errForeign.Error(), nil)
			continue
		}
		slot = max(slot, n)
		if isNew { // left from a crash while it was being filled
			if err := r.removeNew(path); err != nil {
				return all, 0, err
			}
			continue
		}
		f, err := r.open(path)
		if f != nil {
			all = append(all, f)
		}
		if err != nil {
			return all, 0, err
		}
	}
	slices.SortStableFunc(all, func(a, b *File) int { return cmp.Compare(a.Inc, b.Inc) })
	for i := 1; i < len(all); i++ {
		if f := all[i]; f.Num == all[i-1].Num {
			r.damage(f, 0, f.Size, "copy of "+all[i-1].Path, nil)
			all = slices.Delete(all, i, i+1)
			i--
			if err := f.Disk.Close(); err != nil {
				return all, 0, fmt.Errorf("wal: %w", err)
			}
		}
	}
	return all, slot, nil
}

func (r *Replay) removeNew(path string) error {
	if r.o.ReadOnly {
		return nil
	}
	if err := r.o.FS.Remove(path); err != nil {
		return fmt.Errorf("wal: remove leftover: %w", err)
	}
	return nil
}

// open opens one file and reads header and trailer. A file that is not the
// log's own gives nil and goes into the report.
func (r *Replay) open(path string) (*File, error) {
	flag := os.O_RDWR
	if r.o.ReadOnly {
		flag = os.O_RDONLY
	}
	f := &File{Path: path}
	var err error
	if f.Disk, err = r.o.FS.OpenFile(path, flag, 0); err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	if f.Size, err = f.Disk.Size(); err != nil {
		return f, fmt.Errorf("wal: %w", err)
	}
	if err := r.readLabel(f); err != nil {
		r.damage(f, 0, f.Size, err.Error(), nil)
		if err := f.Disk.Close(); err != nil {
			return nil, fmt.Errorf("wal: %w", err)
		}
		return nil, nil
	}
	b := make([]byte, TrailerSize)
	if f.Size >= DataStart+TrailerSize {
		if _, err := f.Disk.ReadAt(b, f.Size-TrailerSize); err == nil {
			f.trailer, f.Sealed = parseTrailer(b, f.Inc, f.Size-TrailerSize)
		}
	}
	if !f.Sealed && f.Size != f.Want {
		r.damage(f, f.Size, f.Want-f.Size, fmt.Sprintf("the file has %d octets instead of %d", f.Size, f.Want), nil)
		f.Lost = true
	}
	return f, nil
}

// readLabel reads both copies of a file's header.
func (r *Replay) readLabel(f *File) error {
	if f.Size == 0 {
		return errors.New("the file is empty")
	}
	var found []label
	var errs []error
	for _, off := range []int64{0, secondCopy} {
		b := make([]byte, labelSize)
		n, err := f.Disk.ReadAt(b, off)
		lb, perr := parseLabel(b[:n])
		switch {
		case perr == nil:
			found = append(found, lb)
		case n < labelSize && err != nil && off < f.Size:
			errs = append(errs, fmt.Errorf("%w: %w", errLabel, err))
		default:
			errs = append(errs, perr)
		}
	}
	if len(found) == 0 {
		return errs[0]
	}
	lb := found[0]
	if len(found) == 2 && found[1].inc > lb.inc {
		lb = found[1] // a crash in Relabel, between the two
	}
	if any := r.o.ReadOnly && r.o.StoreID == [16]byte{}; lb.store != r.o.StoreID && !any {
		return errStore
	}
	if lb.size < MinSize || lb.size > MaxSize {
		return fmt.Errorf("%w: size %d", errLabel, lb.size)
	}
	f.Inc, f.Num, f.Want = lb.inc, uint32(lb.inc>>32), lb.size
	for _, err := range errs {
		r.damage(f, 0, DataStart, "one of two copies of the file header: "+err.Error(), nil)
	}
	return nil
}
