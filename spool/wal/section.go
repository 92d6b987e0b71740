package wal

import "github.com/clrelay/clrelay/spool/wal/logfile"

// Section reads the data of one long record in parts, for readers that are
// slow and many. It is not for use by several goroutines at once. The file is
// held while a call runs and not between calls: when one fails with ErrNoFile,
// the record has been moved, and Move goes on with its copy.
type Section struct {
	l   *Log
	pos Pos
	s   logfile.Section
}

// Section begins to read a record. Errors are those of ReadAt.
func (l *Log) Section(pos Pos) (*Section, error) {
	s := &Section{l: l}
	return s, s.Move(pos)
}

// Header is the record's header.
func (s *Section) Header() Header { return s.s.Header }

// Left tells how many octets have not been read.
func (s *Section) Left() int { return s.s.Left() }

// Move goes on with the copy of the record at pos.
func (s *Section) Move(pos Pos) error {
	f, err := s.l.acquire(pos)
	if err != nil {
		return err
	}
	defer s.l.release(f)
	if err = s.s.Begin(f.File, pos.Offset()); err != nil {
		s.l.spoiled(f, err)
		return err
	}
	s.pos = pos
	return nil
}

// Next reads the next octets, as many as p takes. The last ones are given only
// if the data are what was written: whoever got them all got the record. After
// an error nothing is lost, Next may be called again.
func (s *Section) Next(p []byte) ([]byte, error) {
	f, err := s.l.acquire(s.pos)
	if err != nil {
		return nil, err
	}
	defer s.l.release(f)
	b, err := s.s.Next(f.File, p)
	if err != nil {
		s.l.spoiled(f, err)
	}
	return b, err
}
