// Package content reads from the log what the spool holds: the content of
// messages, their envelopes and the results of their recipients.
//
// Compaction may move any record at any time, so whoever reads one asks, when
// that fails, whether it is elsewhere now. Nothing is read under the spool's
// lock. Errors of the medium are a *record.DamageError, and that a message is
// finished meanwhile is record.ErrFinished; package spool, which hands these
// readers out, has both under names of its own.
package content

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/wal"
	"github.com/clrelay/clrelay/spool/wal/buffers"
)

// Source is where things are read from. All its methods may be called from any
// goroutine that does not hold Mu. All fields but Readers have to be given.
type Source struct {
	Log     *wal.Log
	Dir     string               // of the log, to be named in errors
	Place   func(wal.Pos) string // names a record for a human
	Mu      *sync.Mutex          // guards State
	State   *state.State
	Readers buffers.Readers
}

// hint is how long most records are that are not chunks.
const hint = 400

// read reads the record at pos; 0 is that of a message that is finished.
// Compaction may move it meanwhile, so when that fails, and where says that it
// is elsewhere now, it reads there.
func (s *Source) read(pos wal.Pos, where func() wal.Pos, size int, buf []byte) (wal.Header, []byte, error) {
	for pos != 0 {
		h, data, err := s.readWritten(pos, size, buf)
		if err == nil {
			return h, data, nil
		}
		s.Mu.Lock()
		now := where()
		s.Mu.Unlock()
		if now == pos {
			return h, nil, s.damage(pos, err)
		}
		pos = now
	}
	return wal.Header{}, nil, record.ErrFinished
}

// readWritten reads a record that may just have been appended, or moved.
func (s *Source) readWritten(pos wal.Pos, size int, buf []byte) (wal.Header, []byte, error) {
	h, data, err := s.Log.ReadAt(pos, size, buf)
	if !errors.Is(err, wal.ErrNotWritten) {
		return h, data, err
	}
	if err := s.Log.Sync(); err != nil {
		return h, nil, err
	}
	return s.Log.ReadAt(pos, size, buf)
}

// damage makes an error of the log one that names the place, if it is one of
// the medium.
func (s *Source) damage(pos wal.Pos, err error) error {
	var d *wal.DamageError
	if errors.As(err, &d) {
		return &record.DamageError{Place: s.Place(pos), What: "unreadable record", Err: err}
	}
	return err
}

// section is wal.Log.Section for a record that may just have been moved.
func (s *Source) section(pos wal.Pos) (*wal.Section, error) {
	sec, err := s.Log.Section(pos)
	if errors.Is(err, wal.ErrNotWritten) {
		if err := s.Log.Sync(); err != nil {
			return nil, err
		}
		sec, err = s.Log.Section(pos)
	}
	return sec, err
}

// Chunks gives the content of chunks that nothing moves, because they are on
// the books as pending.
func (s *Source) Chunks(chunks []state.Chunk) io.Reader { return &chunkReader{s: s, chunks: chunks} }

type chunkReader struct {
	s      *Source
	chunks []state.Chunk
	sec    *wal.Section // of the first of them, once begun
}

// Read is of io.Reader.
func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.chunks) > 0 {
		var err error
		skip := 0
		if r.sec == nil {
			r.sec, err = r.s.section(r.chunks[0].Pos)
			skip = record.ChunkHeaderLen
		}
		var data []byte
		if err == nil {
			data, err = r.sec.Next(p)
		}
		if err != nil {
			return 0, fmt.Errorf("spool: reading back a chunk: %w", r.s.damage(r.chunks[0].Pos, err))
		}
		if r.sec.Left() == 0 {
			r.chunks, r.sec = r.chunks[1:], nil
		}
		if n := copy(p, data[min(skip, len(data)):]); n > 0 {
			return n, nil
		}
	}
	return 0, io.EOF
}
