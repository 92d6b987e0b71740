package tracelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/clrelay/clrelay/internal/tracelog/record"
	"github.com/clrelay/clrelay/internal/vfs"
)

// Names in the folder: a number in 16 digits, then what it is.
const (
	suffixFile    = ".trace"   // chunks
	suffixJournal = ".journal" // frames of records that are in no chunk yet
	frameHead     = 8          // length and CRC-32C of the records that follow
	retryAfter    = 5 * time.Second
)

// file is one with chunks.
type file struct {
	name    string
	number  uint64
	size    int64
	indexed bool
	chunks  []chunk
	damage  error // what came behind them
}

// store is what is on the disk, and the records that are to become the next
// chunk. Its methods are for the goroutine of the Log, but for those that
// searches use, which take mu.
type store struct {
	o    *Options
	lose func(n uint64)
	k    *codec

	number  uint64   // of the next file or journal, from 1
	current vfs.File // the last of files, written to; nil: none
	journal vfs.File // nil: none
	jnumber uint64   // its number
	jsize   int64
	failed  time.Time // when the disk was no good last

	mu      sync.Mutex
	keep    time.Duration
	maxSize int64
	files   []*file // the oldest first
	pending []byte  // records of the next chunk; only appended to, so readers keep what they took
	began   int64   // time of the first of them
}

func newStore(o *Options, lose func(uint64)) *store {
	return &store{o: o, lose: lose, k: newCodec(), number: 1, keep: o.Keep, maxSize: o.MaxSize}
}

func (s *store) configure(keep time.Duration, maxSize int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep, s.maxSize = keep, maxSize
}

func (s *store) size() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		n += f.size
	}
	return n + int64(len(s.pending))
}

func (s *store) path(name string) string { return filepath.Join(s.o.Dir, name) }

func nameOf(number uint64, suffix string) string { return fmt.Sprintf("%016d%s", number, suffix) }

// parseName takes a name apart.
func parseName(name string) (number uint64, suffix string, ok bool) {
	i := strings.IndexByte(name, '.')
	if i != 16 {
		return 0, "", false
	}
	number, err := strconv.ParseUint(name[:i], 10, 64)
	suffix = name[i:]
	return number, suffix, err == nil && (suffix == suffixFile || suffix == suffixJournal)
}

// open finds what is there. The records of a journal that became no chunk are
// taken over.
func (s *store) open() {
	err := s.o.FS.Mkdir(s.o.Dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		s.trouble("making the folder", err)
		return
	}
	names, err := s.o.FS.ReadDir(s.o.Dir)
	if err != nil {
		s.trouble("reading the folder", err)
		return
	}
	var journals []uint64
	s.mu.Lock()
	for _, name := range names {
		number, suffix, ok := parseName(name)
		if !ok {
			continue
		}
		s.number = max(s.number, number+1)
		if suffix == suffixJournal {
			journals = append(journals, number)
			continue
		}
		if size, err := s.o.FS.Stat(s.path(name)); err == nil {
			s.files = append(s.files, &file{name: name, number: number, size: size})
		}
	}
	slices.SortFunc(s.files, func(a, b *file) int { return strings.Compare(a.name, b.name) })
	s.mu.Unlock()
	s.recover(journals)
	s.tidy()
}

// recover takes over the records of journals, and removes them.
func (s *store) recover(journals []uint64) {
	last := uint64(0) // journal that became a chunk
	s.mu.Lock()
	if n := len(s.files); n > 0 {
		for _, c := range s.index(s.files[n-1]) {
			last = max(last, c.journal)
		}
	}
	s.mu.Unlock()
	var records []byte
	for _, number := range journals {
		if number <= last {
			continue
		}
		got, err := readJournal(s.o.FS, s.path(nameOf(number, suffixJournal)))
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			s.o.Log.Warn("traces: a journal is damaged: what is behind is lost", "file", nameOf(number, suffixJournal), "error", err)
		}
		records = append(records, got...)
	}
	if len(records) > 0 {
		s.add(records)
	}
	for _, number := range journals {
		if number != s.jnumber {
			_ = s.o.FS.Remove(s.path(nameOf(number, suffixJournal))) // it is read again, at worst
		}
	}
}

// readJournal gives the records of a journal up to what is torn.
func readJournal(f vfs.FS, name string) (out []byte, err error) {
	j, err := f.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = j.Close() }() // it was only read
	size, err := j.Size()
	if err != nil {
		return nil, err
	}
	all := make([]byte, min(size, maxBuffer+chunkSize+1<<20))
	if _, err := j.ReadAt(all, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return parseJournal(all)
}

// parseJournal gives the records of the frames that are whole.
func parseJournal(all []byte) (out []byte, err error) {
	for len(all) > 0 {
		if len(all) < frameHead {
			return out, io.ErrUnexpectedEOF
		}
		n := uint64(le32(all))
		if n > uint64(len(all)-frameHead) {
			return out, io.ErrUnexpectedEOF
		}
		records := all[frameHead : frameHead+n]
		if castagnoli(records) != le32(all[4:]) {
			return out, errDamage
		}
		for rest := records; len(rest) > 0; {
			if _, rest, err = record.Next(rest); err != nil {
				return out, errDamage
			}
		}
		out = append(out, records...)
		all = all[frameHead+n:]
	}
	return out, nil
}

// trouble says once in a while that the disk is no good.
func (s *store) trouble(what string, err error) {
	now := s.o.Now()
	if now.Sub(s.failed) >= time.Minute {
		s.o.Log.Warn("traces: the disk is no good", "doing", what, "error", err)
	}
	s.failed = now
}

// add takes records, which are the store's from now on.
func (s *store) add(records []byte) {
	s.mu.Lock()
	if len(s.pending) == 0 {
		s.began = record.Record(records[record.LengthSize:]).Micros()
	}
	s.pending = append(s.pending, records...)
	size, began := len(s.pending), s.began
	s.mu.Unlock()
	s.write(records)
	if size >= chunkSize || s.o.Now().Sub(time.UnixMicro(began)) >= fileSpan {
		s.seal()
	}
}

// write appends records to the journal.
func (s *store) write(records []byte) {
	if s.journal == nil && !s.begin() {
		return // they are in memory
	}
	var head [frameHead]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(records)))
	binary.LittleEndian.PutUint32(head[4:], castagnoli(records))
	n, err := s.journal.WritevAt([][]byte{head[:], records}, s.jsize)
	if err != nil {
		s.trouble("writing the journal", err)
		_ = s.journal.Truncate(s.jsize) // what is half written is skipped as torn
		return
	}
	s.jsize += int64(n)
}

// begin makes a journal.
func (s *store) begin() bool {
	if !s.failed.IsZero() && s.o.Now().Sub(s.failed) < retryAfter {
		return false
	}
	err := s.o.FS.Mkdir(s.o.Dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		s.trouble("making the folder", err)
		return false
	}
	name := nameOf(s.number, suffixJournal)
	j, err := s.o.FS.OpenFile(s.path(name), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		s.trouble("making a journal", err)
		return false
	}
	s.journal, s.jnumber, s.jsize = j, s.number, 0
	s.number++
	return true
}

// seal makes a chunk of what is open. Where that fails, its records are lost.
func (s *store) seal() {
	s.mu.Lock()
	raw := s.pending
	s.mu.Unlock()
	for rest := raw; len(rest) > 0; {
		piece := cut(&rest)
		packed, c := s.k.pack(nil, s.jnumber, piece)
		if err := s.append(packed, c); err != nil {
			s.trouble("writing a chunk", err)
			s.lose(uint64(c.records))
		}
	}
	s.mu.Lock()
	s.pending = nil // those who read it keep it
	s.mu.Unlock()
	if s.journal != nil {
		_ = s.journal.Close() // its records are elsewhere now
		_ = s.o.FS.Remove(s.path(nameOf(s.jnumber, suffixJournal)))
		s.journal = nil
	}
	s.tidy()
}

// cut takes whole records off for one chunk: a burst may be more than a chunk
// holds.
func cut(rest *[]byte) []byte {
	all, n := *rest, 0
	for n < len(all) {
		r, _, err := record.Next(all[n:])
		if err != nil {
			break // our own octets: never
		}
		size := record.LengthSize + len(r)
		if n > 0 && n+size > maxRaw {
			break
		}
		n += size
	}
	if n == 0 {
		n = len(all)
	}
	*rest = all[n:]
	return all[:n:n]
}

// append writes a chunk behind the last one.
func (s *store) append(packed []byte, c chunk) error {
	if err := s.room(int64(len(packed))); err != nil {
		return err
	}
	s.mu.Lock()
	var f *file
	if s.current != nil {
		f = s.files[len(s.files)-1]
	}
	s.mu.Unlock()
	if f != nil && (f.size+int64(len(packed)) > fileSize || len(f.chunks) > 0 && time.Duration(c.last-f.chunks[0].first)*time.Microsecond > fileSpan) {
		s.finish()
		f = nil
	}
	if f == nil {
		name := nameOf(s.number, suffixFile)
		cur, err := s.o.FS.OpenFile(s.path(name), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		f = &file{name: name, number: s.number, indexed: true}
		s.current = cur
		s.number++
		s.mu.Lock()
		s.files = append(s.files, f)
		s.mu.Unlock()
	}
	if _, err := s.current.WriteAt(packed, f.size); err != nil {
		_ = s.current.Truncate(f.size) // a torn end is skipped, too
		return err
	}
	c.at = f.size
	s.mu.Lock()
	defer s.mu.Unlock()
	f.chunks = append(f.chunks, c)
	f.size += int64(len(packed))
	return nil
}

// finish closes the file that is written to: it is complete.
func (s *store) finish() {
	if s.current == nil {
		return
	}
	err := errors.Join(s.current.Sync(), s.current.Close(), s.o.FS.SyncDir(s.o.Dir))
	if err != nil {
		s.trouble("finishing a file", err)
	}
	s.current = nil
}

// errNoRoom says that the disk must not get fuller.
var errNoRoom = errors.New("the disk is at its reserve")

// room sees that the disk keeps twice its reserve, at which no mail is taken:
// older traces make room for new ones, mail comes before both.
func (s *store) room(n int64) error {
	for {
		free, size, err := s.o.FS.Space(s.o.Dir)
		reserve := s.o.Reserve
		if reserve == 0 {
			reserve = min(size/50, 1<<30)
		}
		if err != nil || free >= 2*reserve+uint64(n) {
			return nil // where it can't be told, the write will
		}
		if !s.removeOldest() {
			return errNoRoom
		}
	}
}

// removeOldest removes the oldest file, unless it is being written.
func (s *store) removeOldest() bool {
	s.mu.Lock()
	if len(s.files) == 0 || len(s.files) == 1 && s.current != nil {
		s.mu.Unlock()
		return false
	}
	f := s.files[0]
	s.files = slices.Clone(s.files[1:])
	s.mu.Unlock()
	if err := s.o.FS.Remove(s.path(f.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.trouble("removing a file", err)
		return false
	}
	return true
}

// tidy removes what is too old or too much.
func (s *store) tidy() {
	for {
		s.mu.Lock()
		total := int64(0)
		for _, f := range s.files {
			total += f.size
		}
		gone := total > s.maxSize
		if !gone && len(s.files) > 0 {
			gone = s.old(s.files[0])
		}
		s.mu.Unlock()
		if !gone || !s.removeOldest() {
			return
		}
	}
}

// old tells whether all of a file is older than is kept. s.mu is held.
func (s *store) old(f *file) bool {
	newest := int64(0)
	for _, c := range s.index(f) {
		newest = max(newest, c.last)
	}
	if newest == 0 { // nothing in it can be read: its turn comes with its successor's
		if len(s.files) < 2 {
			return false
		}
		return s.old(s.files[1])
	}
	return s.o.Now().Sub(time.UnixMicro(newest)) > s.keep
}

// index gives the chunks of a file. s.mu is held.
func (s *store) index(f *file) []chunk {
	if f.indexed {
		return f.chunks
	}
	f.indexed = true
	h, err := s.o.FS.OpenFile(s.path(f.name), os.O_RDONLY, 0)
	if err != nil {
		f.damage = err
		return nil
	}
	f.chunks, err = readChunks(h, f.size)
	if !errors.Is(err, io.ErrUnexpectedEOF) { // a torn end is that of a crash
		f.damage = err
	}
	_ = h.Close() // it was only read
	return f.chunks
}

// close seals nothing: the journal has what is open.
func (s *store) close() {
	s.finish()
	if s.journal != nil {
		if err := errors.Join(s.journal.Sync(), s.journal.Close()); err != nil {
			s.trouble("closing the journal", err)
		}
	}
	s.k.close()
}
