package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

const (
	// File is the name of the log and the votes in a node's directory.
	File = "raft.db"

	lockTimeout = 5 * time.Second // a process that just ended may still hold the file
	checksumLen = 5               // version octet and CRC-32C

	// reserve is the space that the file has for itself, far more than the
	// entries between two snapshots take: a full disk must not end the process,
	// which has results to record and entries to agree to.
	reserve = 64 << 20
)

// The keys under which the library stores its vote. Their names, and the text
// "not found" for a key that is missing, are part of its contract with stores.
const (
	keyTerm     = "CurrentTerm"
	keyVoteTerm = "LastVoteTerm"
)

// ErrFailed says that the store has failed before: nothing is written any more.
var ErrFailed = errors.New("store: failed")

var errKeyNotFound = errors.New("not found")

// Backend is the store under the decorator.
type Backend interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

// OpenBolt opens or creates a file of raft-boltdb, and has the file system
// set space aside for it where it can.
func OpenBolt(path string) (Backend, error) {
	if err := setAside(path); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return openBoltMode(path, false)
}

// setAside reserves blocks and leaves the length of the file as it is, which
// says how much of it bolt has in use. That there is no room, or no such call,
// is no error: the file may have all it needs.
func setAside(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, reserve) // see above
	return f.Close()
}

func openBoltMode(path string, readOnly bool) (Backend, error) {
	o := bbolt.Options{Timeout: lockTimeout, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, ReadOnly: readOnly}
	return raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &o, MsgpackUseNewTimeFormat: true})
}

// Store is the decorator: it latches on the first error, watches for
// operations that hang, checksums entries, and writes votes in the order in
// which a crash between the two writes does no harm.
type Store struct {
	b     Backend
	fatal func(error)
	watch *watchdog

	running atomic.Bool // the library's goroutines are at work

	mu       sync.Mutex
	err      error // the latch
	voteTerm []byte
	took     [2]time.Duration // by the last writes
}

// slowWrite is what no write of a healthy disk takes. A leader is heard of by
// its followers less often than they wait for it when each takes as long.
const slowWrite = 300 * time.Millisecond

// Slow tells whether each of the last writes took long.
func (s *Store) Slow() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(s.took[0], s.took[1]) >= slowWrite
}

// New decorates b, which it owns. An operation that takes hang, or fails, is
// told to fatal, once.
func New(b Backend, hang time.Duration, fatal func(error)) *Store {
	s := &Store{b: b, fatal: fatal}
	s.watch = newWatchdog(hang, func(op string) {
		s.fail(fmt.Errorf("store: the disk has not answered %s for %v", op, hang))
	})
	return s
}

// Started says that from now on the library's own goroutines call.
func (s *Store) Started() { s.running.Store(true) }

// Close closes the store.
func (s *Store) Close() error {
	s.watch.stop()
	return s.b.Close()
}

// fail latches the first error and tells it; it returns the latched one.
func (s *Store) fail(err error) error {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = fmt.Errorf("%w: %w", ErrFailed, err)
	}
	latched := s.err
	s.mu.Unlock()
	if first {
		s.fatal(latched)
	}
	return latched
}

func (s *Store) latched() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// write runs one changing operation. After a failed one nothing is written any
// more: what the disk holds is known only after a restart has read it.
func (s *Store) write(op string, f func() error) error {
	if err := s.latched(); err != nil {
		return err
	}
	id, began := s.watch.begin(op), time.Now()
	err := f()
	s.watch.end(id)
	if err != nil {
		return s.fail(fmt.Errorf("store: %s: %w", op, err))
	}
	s.mu.Lock()
	s.took[0], s.took[1] = s.took[1], time.Since(began)
	s.mu.Unlock()
	return s.latched() // the watchdog may have given it up meanwhile
}

// IsMonotonic tells the library to clear the log before entries with a gap
// come, after a snapshot was installed.
func (s *Store) IsMonotonic() bool { return true }

// FirstIndex returns the index of the first entry, 0 for none.
func (s *Store) FirstIndex() (uint64, error) { return s.b.FirstIndex() }

// LastIndex returns the index of the last entry, 0 for none.
func (s *Store) LastIndex() (uint64, error) { return s.b.LastIndex() }

// GetLog reads an entry and verifies it. The library panics when this fails
// while it applies entries; its goroutine is ended instead, Fatal having been
// called.
func (s *Store) GetLog(index uint64, l *raft.Log) error {
	err := s.b.GetLog(index, l)
	if err == nil {
		err = verify(index, l)
	}
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	err = s.fail(fmt.Errorf("store: reading entry %d: %w", index, err))
	if s.running.Load() {
		runtime.Goexit()
	}
	return err
}

// StoreLog writes one entry.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs writes entries, each with a checksum in its extensions, and syncs.
func (s *Store) StoreLogs(ls []*raft.Log) error {
	sealed := make([]raft.Log, len(ls))
	ptrs := make([]*raft.Log, len(ls))
	for i, l := range ls {
		sealed[i] = *l
		sealed[i].Extensions = seal(l)
		ptrs[i] = &sealed[i]
	}
	return s.write("a write of log entries", func() error { return s.b.StoreLogs(ptrs) })
}

// DeleteRange deletes the entries from first to last.
func (s *Store) DeleteRange(first, last uint64) error {
	return s.write("a deletion of log entries", func() error { return s.b.DeleteRange(first, last) })
}

// Set writes a key. The vote's candidate comes after its term, and takes the
// term that was held back with it: candidate first, then term. A crash between
// leaves a newer candidate with the term of an older vote, and in that term no
// vote is given any more, for the current term was written before.
func (s *Store) Set(key, val []byte) error {
	if err := s.write("a write of the vote", func() error { return s.b.Set(key, val) }); err != nil {
		return err
	}
	s.mu.Lock()
	term := s.voteTerm
	s.voteTerm = nil
	s.mu.Unlock()
	if term == nil {
		return nil
	}
	return s.write("a write of the vote's term", func() error { return s.b.Set([]byte(keyVoteTerm), term) })
}

// Get reads a key; one that is missing is an error whose text is "not found".
func (s *Store) Get(key []byte) ([]byte, error) {
	val, err := s.b.Get(key)
	if err == nil {
		return val, nil
	}
	if err.Error() == errKeyNotFound.Error() {
		return nil, errKeyNotFound
	}
	return nil, s.fail(fmt.Errorf("store: reading %s: %w", key, err))
}

// SetUint64 writes a number: the current term at once, the term of a vote
// together with its candidate. The library panics when the current term cannot
// be written; its goroutine is ended instead, Fatal having been called.
func (s *Store) SetUint64(key []byte, val uint64) error {
	octets := binary.BigEndian.AppendUint64(nil, val)
	if string(key) == keyVoteTerm {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.voteTerm = octets
		return s.err
	}
	err := s.write("a write of the term", func() error { return s.b.Set(key, octets) })
	if err != nil && string(key) == keyTerm && s.running.Load() {
		runtime.Goexit()
	}
	return err
}

// GetUint64 reads a number.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	val, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(val) != 8 {
		return 0, s.fail(fmt.Errorf("store: reading %s: %d octets for a number", key, len(val)))
	}
	return binary.BigEndian.Uint64(val), nil
}

// seal returns what goes into the extensions of a stored entry.
func seal(l *raft.Log) []byte {
	out := make([]byte, checksumLen, checksumLen+len(l.Extensions))
	out[0] = 1
	binary.BigEndian.PutUint32(out[1:], checksum(l, l.Extensions))
	return append(out, l.Extensions...)
}

// verify checks a stored entry and takes the checksum off again.
func verify(index uint64, l *raft.Log) error {
	if l.Index != index {
		return fmt.Errorf("entry %d stands in its place", l.Index)
	}
	if len(l.Extensions) < checksumLen || l.Extensions[0] != 1 {
		return errors.New("it has no checksum")
	}
	want, ext := binary.BigEndian.Uint32(l.Extensions[1:]), l.Extensions[checksumLen:]
	if checksum(l, ext) != want {
		return errors.New("checksum does not match")
	}
	l.Extensions = ext
	if len(ext) == 0 {
		l.Extensions = nil
	}
	return nil
}

func checksum(l *raft.Log, ext []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	head := binary.BigEndian.AppendUint64(make([]byte, 0, 17), l.Index)
	head = append(binary.BigEndian.AppendUint64(head, l.Term), byte(l.Type))
	return crc32.Update(crc32.Update(crc32.Checksum(head, table), table, l.Data), table, ext)
}

// MakeDir creates a directory and makes its name durable.
func MakeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return SyncDir(dir + "/..")
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("store: sync %s: %w", dir, err)
	}
	return nil
}
