package wal

import (
	"errors"
	"fmt"

	"github.com/clrelay/clrelay/spool/wal/logfile"
)

// ReadAt reads one record. hint is how long the data are expected to be: a
// right one, or one that is a little too high, saves a system call. The data
// lie in buf if it has room for them and HeaderSize more, else in new memory.
// A record that cannot be read gives a *DamageError, one that is still pending
// ErrNotWritten, a freed file ErrNoFile.
func (l *Log) ReadAt(pos Pos, hint int, buf []byte) (Header, []byte, error) {
	f, err := l.acquire(pos)
	if err != nil {
		return Header{}, nil, err
	}
	defer l.release(f)
	h, data, err := f.Read(pos.Offset(), hint, buf)
	if err != nil {
		l.spoiled(f, err)
	}
	return h, data, err
}

// spoiled keeps a file from being freed if the error is damage.
func (l *Log) spoiled(f *file, err error) {
	var damage *DamageError
	if errors.As(err, &damage) {
		l.mu.Lock()
		f.Damaged = true
		l.mu.Unlock()
	}
}

// acquire gives the file of a written record and keeps it from being freed.
func (l *Log) acquire(pos Pos) (*file, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.files[pos.File()]
	switch {
	case l.closed:
		return nil, fmt.Errorf("wal: read at %v: %w", pos, ErrClosed)
	case f == nil || f.freeing:
		return nil, fmt.Errorf("wal: read at %v: %w", pos, ErrNoFile)
	case pos >= l.written:
		return nil, fmt.Errorf("wal: read at %v: %w", pos, ErrNotWritten)
	}
	f.refs++
	return f, nil
}

func (l *Log) release(f *file) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.refs--; f.refs == 0 {
		l.change.Broadcast()
	}
}

// Scan visits the records of one sealed file as Open did. Damage is skipped;
// it makes the file one that is never freed.
func (l *Log) Scan(number uint32, visit Visit) error {
	l.mu.Lock()
	f := l.files[number]
	var c logfile.File // its marks of damage are the scan's own
	var err error
	switch {
	case l.closed:
		err = ErrClosed
	case f == nil || f.freeing:
		err = ErrNoFile
	case !f.Sealed:
		err = ErrInUse
	default:
		f.refs++
		c = *f.File
	}
	l.mu.Unlock()
	if err != nil {
		return fmt.Errorf("wal: scan file %d: %w", number, err)
	}
	defer l.release(f)
	r := logfile.NewReplay(l.o.reading(), visit)
	err = r.Scan(&c)
	if len(r.Report.Damage) > 0 {
		l.mu.Lock()
		f.Damaged = true
		l.mu.Unlock()
	}
	return err
}
