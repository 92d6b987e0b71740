package raftnode

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/cluster/port"
	"github.com/clrelay/clrelay/cluster/raftnode/store"
)

// real is a node with a disk, a port and a certificate of its own.
type real struct {
	*Node
	port *port.Port
	fsm  *registers
}

func authority(t *testing.T, dir string) {
	t.Helper()
	if _, err := pki.CreateCA(pki.CAOptions{Dir: filepath.Join(dir, "ca")}); err != nil {
		t.Fatal(err)
	}
}

func identity(t *testing.T, dir, name string) *pki.Identity {
	t.Helper()
	if _, err := pki.Create(pki.CertOptions{Dir: filepath.Join(dir, name), CADir: filepath.Join(dir, "ca"), Name: name}); err != nil {
		t.Fatal(err)
	}
	id, err := pki.Load(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func open(t *testing.T, dir, address string, id *pki.Identity) *real {
	t.Helper()
	lower, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t}
	p, err := port.New(lower, port.Options{TLS: id.Server(ProtocolRaft, ProtocolControl), Log: w.log(id.Peer().Name)})
	if err != nil {
		t.Fatal(err)
	}
	fsm := newRegisters()
	n, err := Open(Options{
		Dir: filepath.Join(dir, "data"), Node: id.Peer().Name, Address: lower.Addr().String(), FSM: fsm,
		Net: Network{
			Raft: p.Listener(ProtocolRaft), Control: p.Listener(ProtocolControl),
			Dial: port.Dialer{TLS: func(node, protocol string) *tls.Config { return id.Client(node, protocol) }}.Dial,
			Peer: func(c net.Conn) (string, error) {
				state, ok := port.State(c)
				if !ok {
					return "", errors.New("no certificate")
				}
				peer, err := pki.PeerOf(state)
				return peer.Name, err
			},
		},
		Fatal: func(err error) { t.Errorf("fatal: %v", err) },
		Log:   w.log(id.Peer().Name),
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.Serve() }() // ends with Close
	return &real{n, p, fsm}
}

func (r *real) close(t *testing.T) {
	t.Helper()
	if err := errors.Join(r.Close(), r.port.Close()); err != nil {
		t.Error(err)
	}
}

// Three nodes over TLS and with bbolt: born, elected, the leader lost,
// restarted, and rescued from the disk of one.
func TestOverTLSAndOnDisk(t *testing.T) {
	dir := t.TempDir()
	authority(t, dir)
	names := []string{"a", "b", "c"}
	ids, nodes, servers := map[string]*pki.Identity{}, map[string]*real{}, []Server{}
	for _, name := range names {
		ids[name] = identity(t, dir, name)
		nodes[name] = open(t, filepath.Join(dir, name), "127.0.0.1:0", ids[name])
		servers = append(servers, Server{Node: name, Address: nodes[name].o.Address})
	}
	defer func() {
		for _, r := range nodes {
			r.close(t)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for _, r := range nodes {
		all.Go(func() {
			if err := r.Bootstrap(ctx, servers); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	value := 0
	propose := func(name string) {
		t.Helper()
		for {
			got, _, err := nodes[name].Propose(ctx, command{Key: "x", Old: value, New: value + 1}.encode())
			if errors.Is(err, ErrUnknownOutcome) && ctx.Err() == nil {
				continue // the compare makes it harmless
			}
			if err != nil {
				t.Fatal(err)
			}
			if value++; got.(answer).Value != value {
				t.Fatalf("on %s: %+v, want %d", name, got, value)
			}
			return
		}
	}
	for _, name := range names {
		propose(name)
	}
	leader := nodes["a"].Status().Leader
	address := nodes[leader].o.Address
	nodes[leader].close(t)
	delete(nodes, leader)
	for name := range nodes {
		propose(name)
	}
	nodes[leader] = open(t, filepath.Join(dir, leader), address, ids[leader])
	propose(leader)
	// A certificate of another authority is no node's.
	elsewhere := t.TempDir()
	authority(t, elsewhere)
	stranger := identity(t, elsewhere, "b")
	_, err := port.Dialer{TLS: func(node, protocol string) *tls.Config { return stranger.Client(node, protocol) }}.Dial(ctx, leader, address, ProtocolControl)
	if err == nil {
		t.Error("a stranger got in")
	}
	if err := nodes["a"].Barrier(ctx); err != nil {
		t.Fatal(err)
	}
	for name, r := range nodes {
		r.close(t)
		delete(nodes, name)
	}
	// Two of three are lost for good.
	tool := func() (store.Offline, *registers) {
		fsm := newRegisters()
		return store.Offline{Dir: filepath.Join(dir, "a", "data"), Node: "a", Address: servers[0].Address, FSM: fsm, Log: (&world{t: t}).log("a")}, fsm
	}
	o, fsm := tool()
	index, err := o.Export()
	if err != nil || index == 0 || fsm.Values["x"] != value {
		t.Errorf("exported at %d: %v, %v", index, fsm.Values, err)
	}
	o, _ = tool()
	if err := os.Rename(o.Dir, o.Dir+".old"); err != nil {
		t.Fatal(err)
	}
	o.Generation = 2
	if err := o.Restore(fsm.Snapshot(), index+1<<32, []Server{{Node: "a", Address: servers[0].Address}}); err != nil {
		t.Fatal(err)
	}
	nodes["a"] = open(t, filepath.Join(dir, "a"), servers[0].Address, ids["a"])
	propose("a")
	if m := nodes["a"].Members(); len(m) != 1 || !m[0].Voter {
		t.Errorf("members %v", m)
	}
	// One that comes back with the old log is turned away, and neither side's
	// log is touched by the other; without its log it is taken in.
	nodes["b"] = open(t, filepath.Join(dir, "b"), servers[1].Address, ids["b"])
	if err := nodes["b"].Join(ctx, []Server{{Node: "a", Address: servers[0].Address}}); !errors.Is(err, ErrRefused) {
		t.Errorf("the old generation joins: %v", err)
	}
	old, err := nodes["b"].layer.Dial(store.Address("a", servers[0].Address), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if _, err := old.Read(make([]byte, 1)); err == nil {
		t.Error("the old generation is talked to")
	}
	nodes["b"].close(t)
	if err := os.Rename(filepath.Join(dir, "b", "data"), filepath.Join(dir, "b", "old")); err != nil {
		t.Fatal(err)
	}
	nodes["b"] = open(t, filepath.Join(dir, "b"), servers[1].Address, ids["b"])
	if err := nodes["b"].Join(ctx, []Server{{Node: "a", Address: servers[0].Address}}); err != nil {
		t.Fatal(err)
	}
	propose("b")
	nodes["b"].close(t)
	nodes["b"] = open(t, filepath.Join(dir, "b"), servers[1].Address, ids["b"])
	propose("b")
}
