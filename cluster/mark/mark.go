package cluster

import (
	"context"
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

const (
	markFile  = "mark"
	markSize  = 4096 // one block, so that it can be written anew on a full disk
	markEvery = 10 * time.Second
	// markLag is how many beacons Raft may be ahead of the mark: a minute. A disk
	// that does not answer for that long has ended the process before.
	markLag = 120
	// keptTries and keptGiven bound the starts that are remembered. A node may go
	// back to an earlier cluster, and is known there by an earlier start.
	keptTries, keptGiven = 50, 8
)

// mark is what a data_dir knows of the lives of its processes. Raft knows of
// them too, so that a data_dir that went back, as an old copy of it does, is
// told from one that has all it ever acknowledged. With such a one a takeover
// would end a segment where the copy ends.
type mark struct {
	Given   [][]byte    `json:"given"`   // nonces of processes that were given a session, the newest last
	Tries   [][]byte    `json:"tries"`   // of those that have asked for one since, and may have been given it
	Session fsm.Session `json:"session"` // the last one given to any
	Beacon  uint64      `json:"beacon"`  // the last one sent in it, within the last markEvery
}

// readMark reads the mark of a data_dir; a new one has none.
func readMark(dir string) (m mark, err error) {
	text, err := os.ReadFile(filepath.Join(dir, markFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return m, fmt.Errorf("cluster: reading %s: %w", filepath.Join(dir, markFile), err)
	}
	return m, nil
}

// begin notes a process that is about to ask for a session.
func (m *mark) begin(nonce [16]byte) {
	m.Tries = append(m.Tries, nonce[:])
	m.Tries = m.Tries[max(0, len(m.Tries)-keptTries):]
}

// given notes the session that the newest process got.
func (m *mark) given(session fsm.Session) {
	m.Given = append(m.Given, m.Tries[len(m.Tries)-1])
	m.Given = m.Given[max(0, len(m.Given)-keptGiven):]
	m.Tries, m.Session, m.Beacon = nil, session, 0
}

// write puts the mark on the disk. A full one must not keep the node from
// delivering: there it is written in its place.
func (m *mark) write(dir string) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	for len(text) < markSize {
		text = append(text, '\n')
	}
	if err = store.WriteFile(dir, markFile, text); err == nil {
		return nil
	}
	f, again := os.OpenFile(filepath.Join(dir, markFile), os.O_WRONLY, 0)
	if again == nil {
		_, again = f.WriteAt(text, 0)
		again = errors.Join(again, f.Sync(), f.Close())
	}
	if again != nil {
		return fmt.Errorf("cluster: marking the data_dir: %w", err)
	}
	return nil
}

// misses tells whether the data_dir lacks what this store did: it does not
// know the process that Raft last gave a session, or was behind it for long.
func (m *mark) misses(nonce [16]byte, l fsm.Lease) bool {
	same := func(b []byte) bool { return string(b) == string(nonce[:]) }
	if !slices.ContainsFunc(m.Given, same) && !slices.ContainsFunc(m.Tries, same) {
		return true
	}
	return l.Session == m.Session && l.Beacon > m.Beacon+markLag
}

// known refuses a data_dir that is older than what Raft knows of it. It is
// asked before the process registers, with all applied that was decided until
// then.
func (n *Node) known(self fsm.Ref, m *mark) error {
	for {
		ctx, cancel := context.WithTimeout(n.ctx, proposeWait)
		err := n.raft.Barrier(ctx)
		cancel()
		if err == nil {
			break
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-n.ctx.Done():
			return errStopped
		}
	}
	var nonce [16]byte
	var l fsm.Lease
	known := false
	n.view.read(func(s *fsm.State) {
		nonce, known = s.Nonce(self)
		l, _ = s.LeaseOf(self)
	})
	if known && m.misses(nonce, l) {
		return fmt.Errorf("cluster: the data_dir of %s is older than what this node has done since: it is an old copy, "+
			"and with it mail would be lost that the other nodes have; move it away and start with an empty one", self.Node)
	}
	return nil
}

// keepMark writes the mark anew while the node lives. What is wrong with the
// disk is the spool's to judge.
func (n *Node) keepMark(m *mark) {
	t := time.NewTicker(markEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-n.ctx.Done():
			return
		}
		m.Beacon = n.control.beacons.Load()
		if err := m.write(n.o.DataDir); err != nil {
			n.o.Log.Warn("the data_dir was not marked", "error", err)
		}
	}
}
