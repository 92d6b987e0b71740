package holding

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm"
)

// Files are the Records of a single machine: one file a record, in a folder a
// space.
type Files struct {
	dir string // holds the folders

	mu      sync.Mutex
	list    map[string]fsm.Record
	version uint64
}

// suffix is that of the files.
const suffix = ".json"

// OpenFile reads the records of one space, the last part of dir.
func OpenFile(dir string) (*Files, error) {
	f := &Files{dir: dir, list: map[string]fsm.Record{}}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("hold rules: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue // half written by a process that ended
		}
		value, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("hold rules: %w", err)
		}
		f.version++
		f.list[space+name] = fsm.Record{Key: space + name, Value: value, Version: f.version}
	}
	return f, nil
}

// Records gives the records whose keys begin with prefix, sorted.
func (f *Files) Records(prefix string) []fsm.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []fsm.Record
	for key, r := range f.list {
		if strings.HasPrefix(key, prefix) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b fsm.Record) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// PutRecord writes or deletes a record; it is on the disk when this returns.
func (f *Files) PutRecord(_ context.Context, c fsm.RecordPut) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.list[c.Key].Version != c.IfVersion {
		return 0, &cluster.RefusedError{Code: fsm.WrongVersion, Text: "another version is there"}
	}
	path := filepath.Join(f.dir, strings.TrimPrefix(c.Key, space)+suffix)
	write := func() error { return f.write(path, c.Value) }
	if c.Delete {
		write = func() error { return os.Remove(path) }
	}
	if err := write(); err != nil {
		return 0, fmt.Errorf("hold rules: %w", err)
	}
	f.version++
	if c.Delete {
		delete(f.list, c.Key)
	} else {
		f.list[c.Key] = fsm.Record{Key: c.Key, Value: c.Value, Version: f.version}
	}
	if err := syncNames(f.dir); err != nil {
		return 0, fmt.Errorf("hold rules: %w", err)
	}
	return f.version, nil
}

// write puts a file in its place, whole or not at all.
func (f *Files) write(path string, value []byte) error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(f.dir, "new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(value)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // the error that counts is the first
	}
	return err
}

// syncNames brings a folder's names to the disk.
func syncNames(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
