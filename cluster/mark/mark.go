// Package mark tells a data_dir from an old copy of it, by a small file in it
// that is held against what Raft knows of the node.
package mark

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/raftnode/store"
)

// Every is how often the beacons of a node that lives are to be noted.
const Every = 10 * time.Second

const (
	file = "mark"
	size = 4096 // one block, so that it can be written anew on a full disk
	// lag is how many beacons Raft may be ahead of the mark: a minute. A disk
	// that does not answer for that long has ended the process before.
	lag = 120
	// keptTries and keptGiven bound the starts that are remembered. A node may go
	// back to an earlier cluster, and is known there by an earlier start.
	keptTries, keptGiven = 50, 8
)

// Mark is what a data_dir knows of the lives of its processes. Raft knows of
// them too, so that a data_dir that went back, as an old copy of it does, is
// told from one that has all it ever acknowledged. With such a one a takeover
// would end a segment where the copy ends.
type Mark struct {
	dir string

	Given   [][]byte    `json:"given"`   // nonces of processes that were, or may have been, given a session, the newest last
	Tries   [][]byte    `json:"tries"`   // of those that have asked for one since
	Session fsm.Session `json:"session"` // the last one given to any
	Beacon  uint64      `json:"beacon"`  // the last one sent in it, within the last Every
}

// Read reads the mark of a data_dir; a new one has none.
func Read(dir string) (*Mark, error) {
	m := &Mark{dir: dir}
	text, err := os.ReadFile(filepath.Join(dir, file))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(text, m)
	}
	if err != nil {
		return nil, fmt.Errorf("mark: reading %s: %w", filepath.Join(dir, file), err)
	}
	return m, nil
}

// None says whether no process has marked the data_dir yet.
func (m *Mark) None() bool { return len(m.Given)+len(m.Tries) == 0 }

// Begin notes a process that is about to ask for a session.
func (m *Mark) Begin(nonce [16]byte) error {
	m.Tries = append(m.Tries, nonce[:])
	m.Tries = m.Tries[max(0, len(m.Tries)-keptTries):]
	return m.write()
}

// Registered notes the session that the newest process got.
func (m *Mark) Registered(session fsm.Session) error {
	// The earlier ones too: what one of them asked for may be decided late.
	m.Given = append(m.Given, m.Tries...)
	m.Given = m.Given[max(0, len(m.Given)-keptGiven-keptTries):]
	m.Tries, m.Session, m.Beacon = nil, session, 0
	return m.write()
}

// Lives notes the newest beacon of the session.
func (m *Mark) Lives(beacon uint64) error {
	m.Beacon = beacon
	return m.write()
}

// write puts the mark on the disk. A full one must not keep the node from
// delivering: there it is written in its place.
func (m *Mark) write() error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	for len(text) < size {
		text = append(text, '\n')
	}
	if err = store.WriteFile(m.dir, file, text); err == nil {
		return nil
	}
	f, again := os.OpenFile(filepath.Join(m.dir, file), os.O_WRONLY, 0)
	if again == nil {
		_, again = f.WriteAt(text, 0)
		again = errors.Join(again, f.Sync(), f.Close())
	}
	if again != nil {
		return fmt.Errorf("mark: %w", err)
	}
	return nil
}

// Misses tells whether the data_dir lacks what this store did: it does not
// know the process that Raft last gave a session, or was behind it for long.
func (m *Mark) Misses(nonce [16]byte, l fsm.Lease) bool {
	same := func(b []byte) bool { return string(b) == string(nonce[:]) }
	if !slices.ContainsFunc(m.Given, same) && !slices.ContainsFunc(m.Tries, same) {
		return true
	}
	return l.Session == m.Session && l.Beacon > m.Beacon+lag
}
