package rescue

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/raftnode/store"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool/datadir"
)

// raftDir is the control plane in a data_dir.
const raftDir = "raft"

// leap is how many generations a new one may skip at most. Which it is, is
// left to chance: when two nodes are recovered that do not know of each other,
// their clusters must not give the same ids.
const leap = 100

// entries is how many entries of the log a generation has room for: its first
// index is its number times this, above every index that a lost node may have
// reached and written to its disk.
const entries = 1 << 32

var (
	// ErrRunning says that a process uses the data_dir.
	ErrRunning = errors.New("rescue: the node is running: stop it first")
	// ErrNothing says that there is nothing to work on.
	ErrNothing = errors.New("rescue: no control plane")
	errNewer   = errors.New("rescue: the log was written by a newer version of clrelay")
	// ErrDamaged says that a backup is none.
	ErrDamaged = errors.New("rescue: not a backup of a control plane, or damaged")
)

// Node is the node whose data_dir is worked on, while it is not running.
type Node struct {
	Name    string
	Address string // host:port of its cluster port
	DataDir string
	Log     *slog.Logger
}

// Report says what a control plane holds, or what became of it.
type Report struct {
	Generation uint32
	Index      uint64 // of the newest entry of the log
	Nodes      []fsm.Node
	Segments   int
	// Here and Elsewhere count segments with a copy on a disk of this node, and
	// those without.
	Here, Elsewhere int
	// Kept is where the directory that was there before is now; empty: there
	// was none.
	Kept string
	// Unread says why what is kept could not be read; nil: it could.
	Unread error
}

func (n Node) dir() string { return filepath.Join(n.DataDir, raftDir) }

// Backup returns the control plane as the node's disk has it.
func (n Node) Backup() (state []byte, r Report, err error) {
	unlock, err := n.lock()
	if err != nil {
		return nil, r, err
	}
	defer unlock()
	s, err := n.read()
	if err != nil {
		return nil, r, err
	}
	return s.Snapshot(), n.report(s), nil
}

// Look tells what a backup holds.
func (n Node) Look(state []byte) (Report, error) {
	s := fsm.New()
	if err := s.Restore(state); err != nil {
		return Report{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return n.report(s), nil
}

// Recover makes the node a cluster of its own, on what its disk has. Every
// other node must be off.
func (n Node) Recover() (Report, error) {
	unlock, err := n.lock()
	if err != nil {
		return Report{}, err
	}
	defer unlock()
	s, err := n.read()
	if err != nil {
		return Report{}, err
	}
	return n.begin(s)
}

// Restore makes the node a cluster of its own, on a backup. The data_dir may
// be empty or have a control plane; that one is kept. Every other node must be
// off.
func (n Node) Restore(state []byte) (Report, error) {
	s := fsm.New()
	if err := s.Restore(state); err != nil {
		return Report{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := n.format(); err != nil {
		return Report{}, err
	}
	unlock, err := n.lock()
	if err != nil {
		return Report{}, err
	}
	defer unlock()
	// What is there may be of a later generation, or past being read.
	g, err := store.Generation(n.dir())
	if err != nil {
		return Report{}, fmt.Errorf("rescue: %w", err)
	}
	if g > s.Generation() {
		if code := apply(s, s.Applied()+1, fsm.GenerationBump{Generation: g}); code != fsm.OK {
			return Report{}, fmt.Errorf("rescue: beginning after generation %d: %v", g, code)
		}
	}
	return n.begin(s)
}

// Rejoin takes the node's old control plane out of the way, so that the next
// start joins the cluster that is there. Mail is not touched: the node tells the
// cluster what it holds. A control plane that is past being read goes, too.
func (n Node) Rejoin() (Report, error) {
	unlock, err := n.lock()
	if err != nil {
		return Report{}, err
	}
	defer unlock()
	var r Report
	s, err := n.read()
	switch {
	case errors.Is(err, ErrNothing), errors.Is(err, errNewer):
		return r, err
	case err != nil:
		r.Unread = err
		if r.Generation, err = store.Generation(n.dir()); err != nil {
			r.Generation = 0 // unknown, and for the name alone
		}
	default:
		r = n.report(s)
	}
	if r.Kept, err = n.free(r.Generation); err != nil {
		return Report{}, err
	}
	if err := os.Rename(n.dir(), r.Kept); err != nil {
		return Report{}, fmt.Errorf("rescue: %w", err)
	}
	return r, store.SyncDir(n.DataDir)
}

// lock makes sure that no process uses the data_dir meanwhile.
func (n Node) lock() (unlock func(), err error) {
	name := filepath.Join(n.DataDir, "format")
	if _, err := os.Stat(name); err != nil {
		return nil, fmt.Errorf("%w: %s is no data_dir: %w", ErrNothing, n.DataDir, err)
	}
	l, err := vfs.OS().Lock(filepath.Join(n.DataDir, "lock"))
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("%w: %s is in use", ErrRunning, n.DataDir)
	}
	if err != nil {
		return nil, fmt.Errorf("rescue: %w", err)
	}
	return func() { _ = l.Close() }, nil // nothing was written through it
}

// format makes an empty data_dir one.
func (n Node) format() error {
	if _, err := os.Stat(filepath.Join(n.DataDir, "format")); !errors.Is(err, fs.ErrNotExist) {
		return nil // lock says what else is wrong
	}
	d, err := datadir.Open(vfs.OS(), n.DataDir, datadir.BootOf(n.DataDir))
	if err != nil {
		return fmt.Errorf("rescue: %w", err)
	}
	return d.Close(true)
}

// read returns the state that the disk has.
func (n Node) read() (*fsm.State, error) {
	m := &machine{State: fsm.New()}
	o := store.Offline{Dir: n.dir(), Node: n.Name, Address: n.Address, FSM: m, Log: n.Log}
	_, err := o.Export()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w in %s", ErrNothing, n.DataDir)
	case err != nil:
		return nil, fmt.Errorf("rescue: %w", err)
	case m.fatal != "":
		return nil, fmt.Errorf("%w: %s", errNewer, m.fatal)
	}
	return m.State, nil
}

// machine is the state as package store feeds it.
type machine struct {
	*fsm.State
	fatal string
}

// Apply is of store.FSM.
func (m *machine) Apply(index uint64, data []byte) any {
	res := m.State.Apply(index, data)
	if res.Fatal {
		m.fatal = res.Text
	}
	return res
}

// begin starts a new generation of s with this node alone, beside what is
// there, and then puts it in its place.
func (n Node) begin(s *fsm.State) (r Report, err error) {
	if err := n.renew(s); err != nil {
		return r, err
	}
	next := n.dir() + ".new"
	if err := os.RemoveAll(next); err != nil { // of a run that was cut off
		return r, fmt.Errorf("rescue: %w", err)
	}
	o := store.Offline{Dir: next, Node: n.Name, Address: n.Address, FSM: &machine{State: fsm.New()}, Log: n.Log, Generation: s.Generation()}
	if err := o.Restore(s.Snapshot(), s.Applied(), []store.Server{{Node: n.Name, Address: n.Address, Voter: true}}); err != nil {
		return r, fmt.Errorf("rescue: %w", err)
	}
	if err := n.hand(); err != nil { // before it is in its place
		return r, err
	}
	r = n.report(s)
	r.Kept, err = n.place(next)
	return r, err
}

// renew begins a new generation in s. All other nodes count as removed.
func (n Node) renew(s *fsm.State) error {
	me, ok := s.Node(n.Name)
	switch {
	case !ok:
		return fmt.Errorf("rescue: the control plane knows no node %q", n.Name)
	case me.State == fsm.Removed:
		return fmt.Errorf("rescue: %s was removed from the cluster", n.Name)
	}
	skip, err := rand.Int(rand.Reader, big.NewInt(leap))
	if err != nil {
		return fmt.Errorf("rescue: %w", err)
	}
	g := s.Generation() + 1 + uint32(skip.Int64())
	if g > fsm.MaxGeneration {
		g = s.Generation() + 1
	}
	index := max(uint64(g)*entries, s.Applied()+1)
	if code := apply(s, index, fsm.GenerationBump{Generation: g}); code != fsm.OK {
		return fmt.Errorf("rescue: beginning generation %d: %v", g, code)
	}
	for _, other := range s.Nodes() {
		if other.Name == n.Name || other.State == fsm.Removed {
			continue
		}
		index++
		out := fsm.NodeChange{Node: other.Name, Verb: fsm.NodeRemove, Force: true, Renewed: math.MaxUint64}
		if code := apply(s, index, out); code != fsm.OK {
			return fmt.Errorf("rescue: leaving %s out: %v", other.Name, code)
		}
	}
	return nil
}

func apply(s *fsm.State, index uint64, c fsm.Command) fsm.Code {
	data, err := fsm.Encode(c)
	if err != nil {
		return fsm.Malformed
	}
	return s.Apply(index, data).Code
}

// place puts next where the control plane belongs and returns where the one
// that was there is now.
func (n Node) place(next string) (kept string, err error) {
	if _, err := os.Stat(n.dir()); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(next, n.dir()); err != nil {
			return "", fmt.Errorf("rescue: %w", err)
		}
		return "", store.SyncDir(n.DataDir)
	}
	was, err := store.Generation(n.dir())
	if err != nil {
		return "", fmt.Errorf("rescue: %w", err)
	}
	if kept, err = n.free(was); err != nil {
		return "", err
	}
	// One step: there is no moment without a control plane, in which a start
	// would take the node for a new one.
	if err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, n.dir(), unix.RENAME_EXCHANGE); err != nil {
		return "", fmt.Errorf("rescue: exchanging %s and %s: %w", next, n.dir(), err)
	}
	if err := store.SyncDir(n.DataDir); err != nil {
		return "", err
	}
	if err := os.Rename(next, kept); err != nil {
		return "", fmt.Errorf("rescue: %w", err)
	}
	return kept, store.SyncDir(n.DataDir)
}

// free finds a name for a directory that is kept.
func (n Node) free(generation uint32) (string, error) {
	name := n.dir() + ".generation-" + strconv.FormatUint(uint64(generation), 10)
	for i := range 100 {
		try := name
		if i > 0 {
			try += "." + strconv.Itoa(i)
		}
		if _, err := os.Lstat(try); errors.Is(err, fs.ErrNotExist) {
			return try, nil
		}
	}
	return "", fmt.Errorf("rescue: %s and 99 others are there: remove those that nobody needs", name)
}

func (n Node) report(s *fsm.State) Report {
	r := Report{Generation: s.Generation(), Index: s.Applied(), Nodes: s.Nodes(), Segments: s.Len()}
	me, _ := s.Node(n.Name)
	for _, g := range s.Segments() {
		if g.IsMember(me.Ref()) {
			r.Here++
		} else {
			r.Elsewhere++
		}
	}
	return r
}

// maxBackup bounds what Read takes.
const maxBackup = 2 << 30

// Read reads a backup.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("rescue: %w", err)
	}
	defer f.Close()
	state, err := io.ReadAll(io.LimitReader(f, maxBackup+1))
	if err == nil && len(state) > maxBackup {
		err = ErrDamaged
	}
	if err != nil {
		return nil, fmt.Errorf("rescue: reading %s: %w", path, err)
	}
	return state, nil
}
