package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/clrelay/clrelay/cluster/fsm/audit"
	"github.com/clrelay/clrelay/cluster/fsm/records"
	"github.com/clrelay/clrelay/proto/control"
)

const recordsFile = "records.json"

// Local keeps the records and the audit chain of a machine that is alone, as a
// cluster keeps them in Raft. It is safe for concurrent use.
type Local struct {
	files *Files
	path  string

	mu      sync.Mutex
	table   records.Table
	chain   audit.Chain
	changed chan struct{} // closed, and replaced, with every audit entry
	written chan struct{} // likewise with every record
}

// stored is the file of records.
type stored struct {
	Version uint64         `json:"version"`
	Records []storedRecord `json:"records"`
}

type storedRecord struct {
	Key     string `json:"key"`
	Version uint64 `json:"version"`
	Value   []byte `json:"value"`
}

// OpenLocal reads what is kept in a folder. The audit log goes on where files
// ends.
func OpenLocal(dir string, files *Files) (*Local, error) {
	l := &Local{files: files, path: filepath.Join(dir, recordsFile), chain: audit.At(files.Last()), changed: make(chan struct{}), written: make(chan struct{})}
	text, err := os.ReadFile(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return l, nil
	case err != nil:
		return nil, fmt.Errorf("ledger: %w", err)
	}
	var s stored
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("ledger: %s is damaged: %w; put a copy of it back, or move it away: jobs and rules that it holds are lost then", l.path, err)
	}
	var list []control.Record
	for _, r := range s.Records {
		list = append(list, control.Record{Key: r.Key, Value: r.Value, Version: r.Version})
	}
	ok := false
	if l.table, ok = records.New(list, s.Version); !ok {
		return nil, fmt.Errorf("ledger: %s is damaged: a record in it breaks the rules; put a copy of it back, or move it away: jobs and rules that it holds are lost then", l.path)
	}
	return l, nil
}

// RefusedError is a change of a record that its rules do not allow.
type RefusedError struct {
	Code    control.Code
	Version uint64 // that the record has
}

// Error says why.
func (e *RefusedError) Error() string { return e.Code.String() }

// Record gives one record.
func (l *Local) Record(key string) (control.Record, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.table.Get(key)
}

// Records gives the records whose keys begin with prefix, sorted.
func (l *Local) Records(prefix string) []control.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.table.List(prefix)
}

// RecordsChanged gives a channel that is closed once a record was written.
func (l *Local) RecordsChanged() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written
}

// PutRecord does a RecordPut and returns when it is on stable storage. A
// refusal is a *RefusedError.
func (l *Local) PutRecord(_ context.Context, c control.RecordPut) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next, _ := records.New(l.table.List(""), l.table.Version())
	version, code := next.Put(c)
	if code != control.OK {
		return version, &RefusedError{code, version}
	}
	s := stored{Version: next.Version(), Records: []storedRecord{}}
	for _, r := range next.List("") {
		s.Records = append(s.Records, storedRecord{r.Key, r.Version, r.Value})
	}
	b, err := json.Marshal(s)
	if err == nil {
		err = replace(l.path, b)
	}
	if err != nil {
		return 0, fmt.Errorf("ledger: %w", err)
	}
	l.table = next
	close(l.written)
	l.written = make(chan struct{})
	return version, nil
}

// replace puts a file in the place of another: after a crash one of the two is
// there.
func replace(path string, text []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// AppendAudit appends an entry and returns when it is on stable storage.
func (l *Local) AppendAudit(_ context.Context, e control.AuditEntry) (control.AuditMark, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.chain
	line, code := next.Append(e.Cut())
	if code != control.OK {
		return control.AuditMark{}, &RefusedError{Code: code}
	}
	if err := l.files.Append(line); err != nil {
		return control.AuditMark{}, err
	}
	l.chain = next
	close(l.changed)
	l.changed = make(chan struct{})
	return line.AuditMark, nil
}

// Audited is of Source.
func (l *Local) Audited() (control.AuditMark, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.chain.Head(), l.changed
}

// AuditsAfter is of Source: what this process wrote.
func (l *Local) AuditsAfter(n uint64) []control.AuditLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.chain.After(n))
}
