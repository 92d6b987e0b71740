package raftnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/clrelay/clrelay/cluster/raftnode/store"
)

// world is a cluster in one process and, mostly, in a bubble of fake time: a
// network of pipes that can be cut, and disks of memory that survive crashes.
type world struct {
	t     *testing.T
	dir   string
	nodes map[string]*member

	mu    sync.Mutex
	cut   map[[2]string]bool // [from, to], packets vanish
	conns map[*wire]struct{}
	doors map[string]*door // "address protocol"
	disks map[string]*disk
	hints map[string]Hint
	fatal map[string][]error
}

type member struct {
	*Node
	fsm *registers
}

func newWorld(t *testing.T) *world {
	return &world{
		t: t, dir: t.TempDir(), nodes: map[string]*member{}, cut: map[[2]string]bool{}, conns: map[*wire]struct{}{},
		doors: map[string]*door{}, disks: map[string]*disk{}, hints: map[string]Hint{}, fatal: map[string][]error{},
	}
}

func address(node string) string { return node + ".test:1" }

func server(node string) Server { return Server{Node: node, Address: address(node)} }

func servers(nodes ...string) []Server {
	var out []Server
	for _, n := range nodes {
		out = append(out, server(n))
	}
	return out
}

func (w *world) log(node string) *slog.Logger {
	if os.Getenv("RAFTNODE_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", node)
}

func (w *world) options(node string) Options {
	return Options{
		Dir: filepath.Join(w.dir, node), Node: node, Address: address(node), FSM: newRegisters(),
		Net: Network{
			Raft:    w.listen(node, ProtocolRaft),
			Control: w.listen(node, ProtocolControl),
			Dial: func(ctx context.Context, to, address, protocol string) (net.Conn, error) {
				return w.dial(ctx, node, to, address, protocol)
			},
			Peer: func(c net.Conn) (string, error) { return c.(*wire).peer, nil },
		},
		Hint: func(of string) Hint {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.hints[of]
		},
		Fatal: func(err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.fatal[node] = append(w.fatal[node], err)
		},
		Log:       w.log(node),
		openStore: func(string) (store.Backend, error) { return w.disk(node), nil },
	}
}

func (w *world) disk(node string) *disk {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.disks[node] == nil {
		w.disks[node] = &disk{InmemStore: raft.NewInmemStore()}
	}
	return w.disks[node]
}

func (w *world) start(node string) *member {
	w.t.Helper()
	return w.startWith(w.options(node))
}

func (w *world) startWith(o Options) *member {
	w.t.Helper()
	n, err := Open(o)
	if err != nil {
		w.t.Fatal(err)
	}
	m := &member{Node: n, fsm: o.FSM.(*registers)}
	w.nodes[o.Node] = m
	return m
}

// born starts the nodes as a new cluster.
func (w *world) born(nodes ...string) {
	w.t.Helper()
	var all sync.WaitGroup
	for _, n := range nodes {
		m := w.start(n)
		all.Go(func() {
			if err := m.Bootstrap(ctxFor(w.t, time.Minute), servers(nodes...)); err != nil {
				w.t.Error(err)
			}
		})
	}
	all.Wait()
}

// crash ends a node; what it wrote stays.
func (w *world) crash(node string) {
	w.t.Helper()
	if err := w.nodes[node].Close(); err != nil {
		w.t.Error(err)
	}
	delete(w.nodes, node)
}

// wipe throws a crashed node's disk away.
func (w *world) wipe(node string) {
	w.t.Helper()
	w.mu.Lock()
	delete(w.disks, node)
	w.mu.Unlock()
	if err := os.RemoveAll(filepath.Join(w.dir, node)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) close() {
	for _, node := range slices.Sorted(maps.Keys(w.nodes)) {
		w.crash(node)
	}
}

// leader waits until the running nodes that can reach a leader agree, and the
// leader is ready.
func (w *world) leader(among ...string) *member {
	w.t.Helper()
	if len(among) == 0 {
		among = slices.Collect(maps.Keys(w.nodes))
	}
	var found *member
	w.until(time.Minute, "a leader of all", func() bool {
		found = nil
		for _, name := range among {
			if s := w.nodes[name].Status(); s.Ready {
				found = w.nodes[name]
			}
		}
		if found == nil {
			return false
		}
		for _, name := range among {
			if s := w.nodes[name].Status(); s.Leader != found.o.Node || s.Term != found.Status().Term {
				return false
			}
		}
		return true
	})
	return found
}

// until waits, in steps of the fake clock, until a fact holds.
func (w *world) until(limit time.Duration, what string, fact func() bool) time.Duration {
	w.t.Helper()
	begun := time.Now()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for !fact() {
		if time.Since(begun) > limit {
			w.t.Fatalf("not within %v: %s; %s", limit, what, w.describe())
		}
		<-t.C
	}
	return time.Since(begun)
}

// pass lets fake time go by.
func pass(d time.Duration) { <-time.After(d) }

func (w *world) describe() string {
	out := ""
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
		n := w.nodes[name]
		out += fmt.Sprintf("%s: %+v applied %d commit %d members %v\n", name, n.Status(), n.AppliedIndex(), n.CommitIndex(), n.Members())
	}
	return out
}

func (w *world) voters() []string {
	var out []string
	for _, s := range w.leader().Members() {
		if s.Voter {
			out = append(out, s.Node)
		}
	}
	slices.Sort(out)
	return out
}

func (w *world) fatals(node string) []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.fatal[node])
}

func ctxFor(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// must proposes and returns the result.
func (w *world) must(on *member, cmd command) answer {
	w.t.Helper()
	result, _, err := on.Propose(ctxFor(w.t, 30*time.Second), cmd.encode())
	if err != nil {
		w.t.Fatalf("%s: %v; %s", on.o.Node, err, w.describe())
	}
	return result.(answer)
}

// same waits until all running nodes have the same state.
func (w *world) same() {
	w.t.Helper()
	for _, m := range w.nodes {
		if err := m.Barrier(ctxFor(w.t, 30*time.Second)); err != nil {
			w.t.Fatalf("%s: %v; %s", m.o.Node, err, w.describe())
		}
	}
	var first string
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
		state := string(w.nodes[name].fsm.Snapshot())
		if first == "" {
			first = state
		}
		if state != first {
			w.t.Fatalf("%s has another state:\n%s\n%s", name, first, state)
		}
	}
}

// --- the network

type door struct {
	w     *world
	key   string
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (w *world) listen(node, protocol string) net.Listener {
	d := &door{w: w, key: address(node) + " " + protocol, conns: make(chan net.Conn), done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.doors[d.key] = d
	return d
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.done:
		return nil, net.ErrClosed
	}
}

func (d *door) Close() error {
	d.once.Do(func() { close(d.done) })
	return nil
}

func (d *door) Addr() net.Addr { return &net.TCPAddr{} }

func (w *world) dial(ctx context.Context, from, to, addr, protocol string) (net.Conn, error) {
	w.mu.Lock()
	gone := w.cut[[2]string{from, to}] || w.cut[[2]string{to, from}]
	d := w.doors[addr+" "+protocol]
	w.mu.Unlock()
	if gone {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if d == nil {
		return nil, errors.New("connection refused")
	}
	if address(to) != addr {
		return nil, fmt.Errorf("%s is not the address of %s", addr, to)
	}
	a, b := net.Pipe()
	here := &wire{Conn: a, w: w, from: from, to: to, peer: to}
	there := &wire{Conn: b, w: w, from: to, to: from, peer: from}
	select {
	case d.conns <- there:
	case <-d.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[here], w.conns[there] = struct{}{}, struct{}{}
	return here, nil
}

// wire is one end of a connection. Once a packet was lost on it nothing passes
// any more in that direction, as nobody sends it again.
type wire struct {
	net.Conn
	w              *world
	from, to, peer string
	lost           atomic.Bool
}

func (c *wire) Write(b []byte) (int, error) {
	c.w.mu.Lock()
	if c.w.cut[[2]string{c.from, c.to}] {
		c.lost.Store(true)
	}
	c.w.mu.Unlock()
	if c.lost.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *wire) Close() error {
	c.w.mu.Lock()
	delete(c.w.conns, c)
	c.w.mu.Unlock()
	return c.Conn.Close()
}

// sever loses all packets from one node to another.
func (w *world) sever(from, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[[2]string{from, to}] = true
}

// isolate cuts a node off, both ways.
func (w *world) isolate(node string, others ...string) {
	for _, o := range others {
		if o != node {
			w.sever(node, o)
			w.sever(o, node)
		}
	}
}

func (w *world) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cut)
}

// --- the disk

// disk is a store of memory that fails and hangs at will.
type disk struct {
	*raft.InmemStore
	broken atomic.Bool
	stuck  atomic.Pointer[chan struct{}]
	slow   atomic.Int64 // what each write takes, a time.Duration
}

func (d *disk) Close() error { return nil }

func (d *disk) StoreLogs(ls []*raft.Log) error {
	if c := d.stuck.Load(); c != nil {
		<-*c
	}
	if d.broken.Load() {
		return errors.New("input/output error")
	}
	if takes := time.Duration(d.slow.Load()); takes > 0 {
		pass(takes)
	}
	return d.InmemStore.StoreLogs(ls)
}

func (d *disk) Set(k, v []byte) error {
	if d.broken.Load() {
		return errors.New("input/output error")
	}
	return d.InmemStore.Set(k, v)
}

// --- the state machine: registers with compare-and-swap

type command struct {
	Key      string
	Old, New int
	Read     bool
}

func (c command) encode() []byte {
	b, _ := json.Marshal(c)
	return b
}

type answer struct {
	OK    bool
	Value int
}

type registers struct {
	mu     sync.Mutex
	Index  uint64
	Values map[string]int
}

func newRegisters() *registers { return &registers{Values: map[string]int{}} }

func (r *registers) Apply(index uint64, data []byte) any {
	r.mu.Lock()
	defer r.mu.Unlock()
	if index <= r.Index {
		panic(fmt.Sprintf("index %d after %d", index, r.Index))
	}
	r.Index = index
	var c command
	if err := json.Unmarshal(data, &c); err != nil {
		return answer{}
	}
	if c.Read {
		return answer{OK: true, Value: r.Values[c.Key]}
	}
	if r.Values[c.Key] != c.Old {
		return answer{Value: r.Values[c.Key]}
	}
	r.Values[c.Key] = c.New
	return answer{OK: true, Value: c.New}
}

func (r *registers) Snapshot() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, _ := json.Marshal(r)
	return b
}

func (r *registers) Restore(b []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Index, r.Values = 0, map[string]int{}
	if len(b) == 0 {
		return io.ErrUnexpectedEOF
	}
	return json.Unmarshal(b, &struct {
		Index  *uint64
		Values *map[string]int
	}{&r.Index, &r.Values})
}
