// Package ledger keeps what operators leave behind on one machine: the audit
// log as lines of JSON in files, and, on a machine that is alone, the operators'
// records and the audit chain themselves.
package ledger

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm/audit"
	"github.com/clrelay/clrelay/proto/control"
)

const (
	// rotateAt is the size of a file after which a new one is begun.
	rotateAt = 16 << 20
	// maxLine is more than any line that we write.
	maxLine = 64 << 10
	pattern = "audit-*.jsonl"
)

// hashMember is what stands between the entry and the end of a line.
const hashMember = `,"hash":"`

// Files is the audit log in a folder: lines of the chain, each with its hash,
// and notes about what is not there. It is safe for concurrent use.
type Files struct {
	dir  string
	size int64 // after which a file is full

	mu   sync.Mutex
	file *os.File // the last one, open to append; nil before there is one
	n    int      // its number
	used int64
	last control.AuditMark
	err  error // once a write failed: the file's end is not known
}

// Note is a line about entries that are not there.
type Note struct {
	Text string `json:"note"`
	AtMS int64  `json:"at_ms"`
	From uint64 `json:"from"` // number of the first entry that is missing
	To   uint64 `json:"to"`   // and of the last
	// Begins says that the log begins behind these entries: the node came to the
	// cluster later.
	Begins bool `json:"begins,omitempty"`
	// Restarts says that another chain follows.
	Restarts bool `json:"restarts,omitempty"`
}

// Open opens the log in a folder, which is made if it is not there. A line
// that was cut off by a crash is taken away; it comes again.
func Open(dir string) (*Files, error) {
	f := &Files{dir: dir, size: rotateAt}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	names, err := f.names()
	if err != nil || len(names) == 0 {
		return f, err
	}
	for i := len(names) - 1; i >= 0 && f.last.Sequence == 0; i-- {
		if err := f.resume(names[i], i == len(names)-1); err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
	}
	return f, nil
}

func (f *Files) names() ([]string, error) {
	names, err := filepath.Glob(filepath.Join(f.dir, pattern))
	slices.Sort(names)
	if err != nil {
		err = fmt.Errorf("ledger: %w", err)
	}
	return names, err
}

// resume finds the last entry in a file, and goes on with it if it is the last.
func (f *Files) resume(name string, last bool) error {
	whole := int64(0)
	file, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	err = lines(file, func(line []byte, _ int) error {
		whole += int64(len(line)) + 1
		if text, hash, ok := split(line); ok {
			if l, err := audit.Parse(text); err == nil {
				f.last = control.AuditMark{Sequence: l.Sequence, Hash: hash}
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errTorn) {
		return errors.Join(err, file.Close())
	}
	if !last {
		return file.Close()
	}
	if errors.Is(err, errTorn) {
		if err := file.Truncate(whole); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	f.file, f.used = file, whole
	_, err = fmt.Sscanf(filepath.Base(name), "audit-%d.jsonl", &f.n)
	return err
}

// errTorn is a last line without an end.
var errTorn = errors.New("the last line has no end")

// lines calls visit for each whole line, which is valid during the call alone.
func lines(r io.Reader, visit func(line []byte, n int) error) error {
	b := bufio.NewReaderSize(r, maxLine)
	for n := 1; ; n++ {
		line, err := b.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return errTorn
		case errors.Is(err, bufio.ErrBufferFull):
			line = line[:0] // none of ours: it is read as an empty one
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = b.ReadSlice('\n')
			}
			if err != nil {
				return errTorn
			}
		case err != nil:
			return err
		default:
			line = line[:len(line)-1]
		}
		if err := visit(line, n); err != nil {
			return err
		}
	}
}

// join gives an entry's line with its hash.
func join(l *control.AuditLine) []byte {
	return fmt.Appendf(slices.Clone(l.Text[:len(l.Text)-1]), "%s%x\"}\n", hashMember, l.Hash)
}

// split takes a line apart into the text that is hashed and the hash that
// stands in it.
func split(line []byte) (text []byte, hash [32]byte, ok bool) {
	at := len(line) - len(hashMember) - 2*len(hash) - len(`"}`)
	if at < 1 || !bytes.HasPrefix(line[at:], []byte(hashMember)) || !bytes.HasSuffix(line, []byte(`"}`)) {
		return nil, hash, false
	}
	_, err := hex.Decode(hash[:], line[at+len(hashMember):len(line)-2])
	return append(slices.Clone(line[:at]), '}'), hash, err == nil
}

// Last is the place of the last entry that was written.
func (f *Files) Last() control.AuditMark {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// Append writes entries and returns when they are on stable storage.
func (f *Files) Append(list ...control.AuditLine) error {
	if len(list) == 0 {
		return nil
	}
	var b []byte
	for i := range list {
		b = append(b, join(&list[i])...)
	}
	return f.write(b, list[len(list)-1].AuditMark)
}

// Note writes a note.
func (f *Files) Note(n Note) error {
	b, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return f.write(append(b, '\n'), control.AuditMark{})
}

func (f *Files) write(b []byte, last control.AuditMark) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	if err := f.rotate(); err != nil {
		return fmt.Errorf("ledger: the audit log: %w", err)
	}
	if _, err := f.file.Write(b); err != nil { // such as on a full disk: it is tried again
		err = fmt.Errorf("ledger: the audit log: %w", err)
		if cut := f.file.Truncate(f.used); cut != nil {
			f.err = errors.Join(err, cut)
		}
		return err
	}
	if err := f.file.Sync(); err != nil {
		f.err = fmt.Errorf("ledger: the audit log: %w", err) // what is on the disk is not known any more
		return f.err
	}
	f.used += int64(len(b))
	if last.Sequence > 0 {
		f.last = last
	}
	return nil
}

// rotate begins the next file when this one is full.
func (f *Files) rotate() error {
	if f.file != nil && f.used < f.size {
		return nil
	}
	name := filepath.Join(f.dir, fmt.Sprintf("audit-%06d.jsonl", f.n+1))
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if err := syncDir(f.dir); err != nil {
		return errors.Join(err, file.Close())
	}
	was := f.file
	f.file, f.n, f.used = file, f.n+1, 0
	if was != nil {
		return was.Close()
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close closes the last file.
func (f *Files) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = errors.New("ledger: the audit log is closed")
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}

// Line is an entry that was read.
type Line struct {
	audit.Line
	Stated [32]byte // the hash that stands in the file
}

// Read reads an entry of a chain.
func Read(l *control.AuditLine) (*Line, error) {
	p, err := audit.Parse(l.Text)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return &Line{Line: p, Stated: l.Hash}, nil
}

// Each calls visit for all entries that can be read, the oldest first. What
// cannot be read is for Verify.
func (f *Files) Each(visit func(*Line) error) error {
	return f.each(func(_ string, _ int, line []byte) error {
		text, hash, ok := split(line)
		if !ok {
			return nil
		}
		l, err := audit.Parse(text)
		if err != nil {
			return nil //nolint:nilerr // Verify names it
		}
		return visit(&Line{Line: l, Stated: hash})
	})
}

func (f *Files) each(visit func(file string, n int, line []byte) error) error {
	names, err := f.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		file, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
		err = lines(file, func(line []byte, n int) error { return visit(name, n, line) })
		if errors.Is(err, errTorn) {
			err = nil // it is being written
		}
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// now is for notes, which no chain holds.
func now() int64 { return time.Now().UnixMilli() }
