package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// member is a node with its spool, and a queue that delivers nothing.
type member struct {
	*cluster.Node
	name string
	dir  string
	addr string
	talk string
	sp   *spool.Spool
	q    *shelf

	limits limit.Local // nil: none
	purse  *purse      // that it is
}

// shelf is a Queue that only remembers.
type shelf struct {
	mu   sync.Mutex
	held map[uint64]map[mail.ID]*spool.Message // by segment
}

func (s *shelf) Resume(m *spool.Message, _ *mail.Envelope, _ []spool.RecipientState) { s.put(m) }

func (s *shelf) put(m *spool.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := m.Header(0).Segment
	if s.held[id] == nil {
		s.held[id] = map[mail.ID]*spool.Message{}
	}
	s.held[id][m.ID()] = m
}

func (s *shelf) Withdraw(_ context.Context, segment uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, segment)
	return nil
}

func (s *shelf) all() map[mail.ID]*spool.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[mail.ID]*spool.Message{}
	for _, ms := range s.held {
		for id, m := range ms {
			out[id] = m
		}
	}
	return out
}

// group is a cluster in one process.
type group struct {
	t     *testing.T
	tls   string
	seeds []string
	nodes []*member
}

func newGroup(t *testing.T, n int) *group { return makeGroup(t, n, func(*group) {}) }

// makeGroup makes one whose nodes are fitted out before they start.
func makeGroup(t *testing.T, n int, fit func(*group)) *group {
	t.Helper()
	g := &group{t: t, tls: t.TempDir()}
	if _, err := pki.CreateCA(pki.CAOptions{Dir: g.tls}); err != nil {
		t.Fatal(err)
	}
	for range n {
		g.seeds = append(g.seeds, freeAddr(t))
	}
	for i := range n {
		m := &member{name: fmt.Sprintf("mx%d", i+1), addr: freeAddr(t), talk: g.seeds[i]}
		m.dir = filepath.Join(t.TempDir(), m.name)
		if _, err := pki.Create(pki.CertOptions{Dir: filepath.Join(g.tls, m.name), CADir: g.tls, Kind: pki.Node, Name: m.name, Hosts: []string{"127.0.0.1"}}); err != nil {
			t.Fatal(err)
		}
		g.nodes = append(g.nodes, m)
	}
	fit(g)
	for _, m := range g.nodes {
		g.start(m)
	}
	return g
}

func (g *group) start(m *member) {
	g.t.Helper()
	id, err := pki.Load(filepath.Join(g.tls, m.name))
	if err != nil {
		g.t.Fatal(err)
	}
	m.q = &shelf{held: map[uint64]map[mail.ID]*spool.Message{}}
	fatal := func(err error) { g.t.Errorf("%s: fatal: %v", m.name, err) }
	log := slog.New(slog.NewTextHandler(io.Discard, nil)).With("node", m.name)
	if os.Getenv("CLRELAY_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", m.name)
	}
	m.Node = cluster.New(cluster.Options{
		Name: m.name, DataDir: m.dir, Listen: m.addr, Address: m.addr, Gossip: m.talk, Advertise: m.talk, Join: g.seeds,
		Expect: len(g.seeds), Version: "test", SMTP: []string{"127.0.0.1:25"}, Identity: id, Log: log, Fatal: fatal,
		Settings: func(text []byte) (fsm.Settings, error) {
			if strings.Contains(string(text), "wrong") {
				return fsm.Settings{}, errors.New("wrong")
			}
			return fsm.DefaultSettings(), nil
		},
		Configured: func(fsm.Config) {}, Changed: func() {}, Birth: []byte("birth"),
		Limits: m.limits,
	})
	m.sp, _, err = spool.Open(spool.Options{
		Dir: m.dir, Node: m.name, FileSize: 1 << 20, Reserve: 1, Log: log, Fatal: fatal,
		Accepted: func(msg *spool.Message, _ *mail.Envelope) { m.q.put(msg) }, Placement: m.Placement(),
	})
	if err == nil {
		err = m.sp.Each(func(msg *spool.Message, _ *mail.Envelope, _ []spool.RecipientState) { m.q.put(msg) })
	}
	if err == nil {
		err = m.Start(m.sp, m.q)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { g.stop(m) })
}

// stop ends a node; to the others it is as if it had died.
func (g *group) stop(m *member) {
	if m.Node == nil {
		return
	}
	if err := errors.Join(m.Node.Close(), m.sp.Close()); err != nil {
		g.t.Error(err)
	}
	m.Node = nil
}

func freeAddr(t *testing.T) string {
	t.Helper()
	for range 100 {
		// Below the range that the kernel takes the near ends of connections
		// from: nothing takes it before it is listened on, or between two starts.
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// eventually waits for a fact.
func eventually(t *testing.T, what string, fact func() bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func (g *group) ready() {
	g.t.Helper()
	for _, m := range g.nodes {
		eventually(g.t, m.name+" is ready", func() bool { return m.Ready() == nil })
	}
}

// send has a node accept n messages in as many goroutines, and gives those
// that were answered 250.
func (m *member) send(t *testing.T, n, size int) []mail.ID {
	t.Helper()
	var mu sync.Mutex
	var ids []mail.ID
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			env := &mail.Envelope{
				ID: mail.NewID(time.Now()), From: mail.Address{Local: "a", Domain: "b.test"}, Arrived: time.Now(),
				Recipients: []mail.Recipient{{Addr: mail.Address{Local: fmt.Sprint("u", i), Domain: "x.test"}}},
			}
			_, err := m.sp.Accept(context.Background(), env, strings.NewReader(strings.Repeat("x", size)))
			if err == nil {
				mu.Lock()
				ids = append(ids, env.ID)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return ids
}

// TestTakeover: what a node acknowledged is queued at another when it dies,
// bodies and all, and the node that comes back owns nothing of it.
func TestTakeover(t *testing.T) {
	g := newGroup(t, 3)
	g.ready()
	sent := append(g.nodes[0].send(t, 50, 100), g.nodes[0].send(t, 3, 3<<20)...)
	if len(sent) != 53 {
		t.Fatalf("%d of 53 messages were taken", len(sent))
	}
	dead := g.nodes[0]
	g.stop(dead)
	eventually(t, "the others own all of it", func() bool {
		have := g.nodes[1].q.all()
		for id, m := range g.nodes[2].q.all() {
			have[id] = m
		}
		for _, id := range sent {
			if have[id] == nil {
				return false
			}
		}
		return true
	})
	for _, m := range g.nodes[1:] {
		for id, msg := range m.q.all() {
			rc, err := m.sp.Content(msg).Open()
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, rc)
			if n != msg.Size() || err != nil {
				t.Errorf("%s: message %s: %d of %d octets: %v", m.name, id, n, msg.Size(), err)
			}
			if err := rc.Close(); err != nil {
				t.Error(err)
			}
			if !m.Holds(msg) {
				t.Errorf("%s: message %s is queued and may not be delivered", m.name, id)
			}
		}
	}
	g.start(dead)
	g.ready()
	if n := len(dead.q.all()); n != 0 {
		t.Errorf("the node that came back has %d messages in its queue", n)
	}
}

// TestDrain: a drained node hands over what it owns, says so, and comes back.
func TestDrain(t *testing.T) {
	g := newGroup(t, 3)
	g.ready()
	sent := g.nodes[2].send(t, 60, 2000)
	if err := g.nodes[0].Drain(t.Context(), "mx3"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "mx3 is drained", func() bool {
		p, err := g.nodes[1].Progress("mx3")
		return err == nil && p.State == "drained"
	})
	have := g.nodes[0].q.all()
	for id, m := range g.nodes[1].q.all() {
		have[id] = m
	}
	for _, id := range sent {
		if have[id] == nil {
			t.Errorf("message %s is in nobody's queue", id)
		}
	}
	if n := len(g.nodes[2].q.all()); n != 0 {
		t.Errorf("the drained node still queues %d messages", n)
	}
	if got := g.nodes[2].send(t, 1, 10); len(got) != 0 {
		t.Error("the drained node takes mail")
	}
	if err := g.nodes[0].Drain(t.Context(), "mx2"); err == nil {
		t.Error("a second node may be drained, which leaves one copy")
	}
	if err := g.nodes[0].Remove(t.Context(), "mx2", true); err == nil {
		t.Error("a node that lives was removed by force")
	}
	if err := g.nodes[0].Resume(t.Context(), "mx3"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it takes mail again", func() bool { return g.nodes[2].Ready() == nil })
}

// TestConfiguration: every node gets a new version; a wrong one and one that
// came too late change nothing.
func TestConfiguration(t *testing.T) {
	g := newGroup(t, 3)
	g.ready()
	eventually(t, "there is a first version", func() bool { c, ok := g.nodes[2].Config(); return ok && c.Version == 1 })
	v, err := g.nodes[2].Apply(t.Context(), []byte("second"), 1, "me", "why not")
	if err != nil || v != 2 {
		t.Fatalf("version %d: %v", v, err)
	}
	for _, m := range g.nodes {
		eventually(t, "all have it", func() bool { c, _ := m.Config(); return string(c.Text) == "second" })
	}
	if _, err := g.nodes[1].Apply(t.Context(), []byte("third"), 1, "me", "too late"); err == nil {
		t.Error("a version that was overtaken was applied")
	}
	if _, err := g.nodes[1].Apply(t.Context(), []byte("wrong"), 2, "me", ""); err == nil {
		t.Error("a wrong text was applied")
	}
	if o := g.nodes[0].Overview(); o.Leader == "" || !o.Quorum || len(o.Nodes) != 3 || o.Copies != 2 {
		t.Errorf("overview %+v", o)
	}
	to := "mx1"
	if g.nodes[0].Overview().Leader == to {
		to = "mx2"
	}
	if got, err := g.nodes[2].TransferLeader(t.Context(), to); err != nil || got != to {
		t.Errorf("the leader is %q, want %q: %v", got, to, err)
	}
}
