package gossip

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"github.com/clrelay/clrelay/cluster/pki"
)

func TestMain(m *testing.M) {
	code := m.Run()
	var err error
	// memberlist's own goroutines last as long as a probe after the end, and
	// Find waits about a second.
	for range 5 {
		if err = goleak.Find(); err == nil {
			break
		}
	}
	if err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// authority makes one; node makes an identity of it.
func authority(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	if _, err := pki.CreateCA(pki.CAOptions{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func identity(t testing.TB, ca string, kind pki.Kind, name string) *pki.Identity {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if _, err := pki.Create(pki.CertOptions{Kind: kind, Dir: dir, CADir: ca, Name: name}); err != nil {
		t.Fatal(err)
	}
	id, err := pki.Open(pki.Options{Dir: dir, Kind: kind})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// network is the loopback with links that can be cut.
type network struct {
	mu    sync.Mutex
	where map[string]string  // address of a node -> its name
	cut   map[[2]string]bool // from, to
	conns []dialled
}

type dialled struct {
	net.Conn
	from, addr string
}

func newNetwork() *network {
	return &network{where: map[string]string{}, cut: map[[2]string]bool{}}
}

func (n *network) dialer(from string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		n.mu.Lock()
		cut := n.cut[[2]string{from, n.where[addr]}]
		if !cut {
			n.conns = append(n.conns, dialled{conn, from, addr})
		}
		n.mu.Unlock()
		if cut {
			_ = conn.Close()
			<-ctx.Done() // packets vanish
			return nil, ctx.Err()
		}
		return conn, nil
	}
}

// set cuts or mends the links between two sides, both ways.
func (n *network) set(cut bool, a, b []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, x := range a {
		for _, y := range b {
			n.cut[[2]string{x, y}], n.cut[[2]string{y, x}] = cut, cut
		}
	}
	for _, c := range n.conns {
		if n.cut[[2]string{c.from, n.where[c.addr]}] {
			_ = c.Close()
		}
	}
}

// cluster is what the tests start and stop.
type cluster struct {
	t     *testing.T
	ca    string
	net   *network
	seeds []string
	nodes map[string]*Gossip
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, ca: authority(t), net: newNetwork(), nodes: map[string]*Gossip{}}
	t.Cleanup(func() {
		for _, g := range c.nodes {
			if err := g.end(false); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

func (c *cluster) options(name string) Options {
	return Options{
		Node: name, Listen: "127.0.0.1:0", Seeds: c.seeds, TLS: identity(c.t, c.ca, pki.Node, name), Dial: c.net.dialer(name),
		Meta: Meta{Zone: "zone-" + name, Version: "v1", SMTP: []string{"10.0.0.1:25"}},
		Log:  slog.New(slog.NewTextHandler(c.t.Output(), nil)).With("node", name),
	}
}

func (c *cluster) start(o Options) *Gossip {
	c.t.Helper()
	g, err := Start(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.net.mu.Lock()
	c.net.where[g.Addr().String()] = o.Node
	c.net.mu.Unlock()
	c.nodes[o.Node] = g
	return g
}

func (c *cluster) stop(name string, leave bool) {
	c.t.Helper()
	if err := c.nodes[name].end(leave); err != nil {
		c.t.Error(err)
	}
	delete(c.nodes, name)
}

// startAll starts nodes, each with the first as seed.
func (c *cluster) startAll(names ...string) {
	c.t.Helper()
	for _, name := range names {
		g := c.start(c.options(name))
		if c.seeds == nil {
			c.seeds = []string{g.Addr().String()}
		}
	}
	for name, g := range c.nodes {
		for _, other := range names {
			c.await(name, g, other, Alive)
		}
	}
}

// until waits for a fact about the members that one node sees.
func (c *cluster) until(what string, g *Gossip, fact func([]Member) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for {
		changed := g.Changed()
		if fact(g.Members()) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.t.Fatalf("waiting for %s: there is %v", what, brief(g.Members()))
		}
	}
}

func (c *cluster) await(at string, g *Gossip, node string, state State) {
	c.t.Helper()
	c.until(fmt.Sprintf("%s to see %s %s", at, node, state), g, func(ms []Member) bool {
		m, ok := find(ms, node)
		return ok && m.State == state
	})
}

func find(ms []Member, node string) (Member, bool) {
	for _, m := range ms {
		if m.Node == node {
			return m, true
		}
	}
	return Member{}, false
}

func brief(ms []Member) []string {
	var out []string
	for _, m := range ms {
		out = append(out, fmt.Sprintf("%s %s at %s", m.Node, m.State, m.Addr))
	}
	return out
}

func TestMembersAndMeta(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startAll("mx1", "mx2", "mx3", "mx4", "mx5")
	for name, g := range c.nodes {
		for _, m := range g.Members() {
			if m.Self != (m.Node == name) || m.Meta.Zone != "zone-"+m.Node || m.Addr != c.nodes[m.Node].Addr() {
				t.Errorf("%s sees %+v", name, m)
			}
		}
	}
	want := Meta{Zone: "b", Version: "v2", Session: 7, Store: [16]byte{1}, SMTP: []string{"10.0.0.9:25"}, Ready: true}
	for i := range 100 {
		want.Load.Queued = uint64(i)
		if err := c.nodes["mx2"].SetMeta(want); err != nil {
			t.Fatal(err)
		}
	}
	for name, g := range c.nodes {
		c.until(name+" to hear of mx2's load", g, func(ms []Member) bool {
			m, _ := find(ms, "mx2")
			return m.Meta.Load.Queued == 99 && m.Meta.Session == 7 && m.Meta.Ready
		})
	}
	if err := c.nodes["mx2"].SetMeta(Meta{Zone: strings.Repeat("z", 65)}); !errors.Is(err, ErrMeta) {
		t.Errorf("a long zone: %v", err)
	}
}

// What a node tells reaches the others, whatever octets it is of, and not itself;
// what is too long is not sent.
func TestTell(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	heard := make(chan string, 1000)
	for _, name := range []string{"mx1", "mx2", "mx3"} {
		o := c.options(name)
		o.Told = func(text []byte) { heard <- name + " " + string(text) }
		g := c.start(o)
		if c.seeds == nil {
			c.seeds = []string{g.Addr().String()}
		}
	}
	for _, name := range []string{"mx2", "mx3"} {
		c.await("mx1", c.nodes["mx1"], name, Alive)
	}
	text := "\x00\x01\xc9\xff" + strings.Repeat("x", MaxTold-4)
	missing := map[string]bool{"mx2 " + text: true, "mx3 " + text: true}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for len(missing) > 0 {
		c.nodes["mx1"].Tell([]byte(text))
		c.nodes["mx1"].Tell([]byte(text + "y"))
		select {
		case got := <-heard:
			if got != "mx2 "+text && got != "mx3 "+text {
				t.Fatalf("heard %.40q of %d octets", got, len(got))
			}
			delete(missing, got)
		case <-again.C: // a packet may be lost
		case <-ctx.Done():
			t.Fatalf("%d nodes heard nothing", len(missing))
		}
	}
}

// A killed node is suspected, then dead; under its name it comes back at
// another address, and at the same one.
func TestKillAndComeBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startAll("mx1", "mx2", "mx3")
	old := c.nodes["mx3"].Addr()
	c.stop("mx3", false)
	for _, name := range []string{"mx1", "mx2"} {
		c.await(name, c.nodes[name], "mx3", Suspect)
	}
	for _, name := range []string{"mx1", "mx2"} {
		c.await(name, c.nodes[name], "mx3", Dead)
	}
	back := c.start(c.options("mx3"))
	if back.Addr() == old {
		t.Fatalf("the test wants another address than %s", old)
	}
	for _, name := range []string{"mx1", "mx2"} {
		c.until(name+" to see mx3 where it is now", c.nodes[name], func(ms []Member) bool {
			m, _ := find(ms, "mx3")
			return m.State == Alive && m.Addr == back.Addr()
		})
	}
	// And at the same address, at once, before anybody noticed.
	c.stop("mx3", false)
	o := c.options("mx3")
	o.Listen = back.Addr().String()
	o.Meta.Session = 2
	c.start(o)
	for _, name := range []string{"mx1", "mx2"} {
		c.until(name+" to see mx3's new process", c.nodes[name], func(ms []Member) bool {
			m, _ := find(ms, "mx3")
			return m.State == Alive && m.Meta.Session == 2
		})
	}
}

// One that moves without having been missed waits until its old address is
// given up.
func TestMoveAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startAll("mx1", "mx2")
	c.stop("mx2", false)
	g := c.start(c.options("mx2"))
	c.until("mx1 to see mx2 at its new address", c.nodes["mx1"], func(ms []Member) bool {
		m, _ := find(ms, "mx2")
		return m.State == Alive && m.Addr == g.Addr()
	})
}

// The seed itself restarts elsewhere and knows nobody: the others' old
// address of it is of no use, its seeds are.
func TestLeaveAndReturn(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startAll("mx1", "mx2", "mx3")
	c.stop("mx2", true)
	for _, name := range []string{"mx1", "mx3"} {
		c.await(name, c.nodes[name], "mx2", Dead)
	}
	c.start(c.options("mx2"))
	for _, name := range []string{"mx1", "mx3"} {
		c.await(name, c.nodes[name], "mx2", Alive)
	}
}

// Both sides of a partition give each other up, and find together again by
// themselves, also where no seed is on the other side.
func TestPartition(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startAll("mx1", "mx2", "mx3", "mx4", "mx5")
	left, right := []string{"mx1", "mx2"}, []string{"mx3", "mx4", "mx5"}
	c.net.set(true, left, right)
	for _, a := range left {
		for _, b := range right {
			c.await(a, c.nodes[a], b, Dead)
			c.await(b, c.nodes[b], a, Dead)
		}
		c.await(a, c.nodes[a], left[0], Alive)
	}
	c.net.set(false, left, right)
	for a, g := range c.nodes {
		for b := range c.nodes {
			c.await(a, g, b, Alive)
		}
	}
}

// While one link is cut, the two suspect each other, and nobody is dead: the
// third reaches both.
func TestOneLinkCut(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startAll("mx1", "mx2", "mx3")
	c.net.set(true, []string{"mx1"}, []string{"mx2"})
	c.await("mx1", c.nodes["mx1"], "mx2", Suspect)
	c.await("mx2", c.nodes["mx2"], "mx1", Suspect)
	for _, g := range c.nodes {
		c.await("any", g, "mx3", Alive)
	}
	c.net.set(false, []string{"mx1"}, []string{"mx2"})
	c.await("mx1", c.nodes["mx1"], "mx2", Alive)
	c.await("mx2", c.nodes["mx2"], "mx1", Alive)
}

// Seeds are DNS names whose addresses change, and are looked up for ever.
func TestSeedsByName(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	first := c.start(c.options("mx1"))
	var mu sync.Mutex
	asked, answer := make(chan struct{}, 1), netip.Addr{}
	o := c.options("mx2")
	o.Seeds = []string{fmt.Sprintf("seed.example.edu:%d", first.Addr().Port()), "nonsense", "other.example.edu:99999"}
	o.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
		mu.Lock()
		defer mu.Unlock()
		select {
		case asked <- struct{}{}:
		default:
		}
		if host != "seed.example.edu" || !answer.IsValid() {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return []netip.Addr{answer}, nil
	}
	g := c.start(o)
	for range 3 {
		<-asked
	}
	mu.Lock()
	answer = first.Addr().Addr()
	mu.Unlock()
	c.await("mx2", g, "mx1", Alive)
	c.await("mx1", first, "mx2", Alive)
}

func TestStartRefuses(t *testing.T) {
	ca := authority(t)
	mx1 := identity(t, ca, pki.Node, "mx1")
	for _, c := range []struct {
		what string
		o    Options
		want error
	}{
		{"another's certificate", Options{Node: "mx2", Listen: "127.0.0.1:0", TLS: mx1}, ErrName},
		{"an operator's certificate", Options{Node: "mx1", Listen: "127.0.0.1:0", TLS: identity(t, ca, pki.Admin, "mx1")}, ErrName},
		{"no name", Options{Listen: "127.0.0.1:0", TLS: mx1}, pki.ErrInvalid},
		{"a long zone", Options{Node: "mx1", Listen: "127.0.0.1:0", TLS: mx1, Meta: Meta{Zone: strings.Repeat("z", 100)}}, ErrMeta},
		{"no address", Options{Node: "mx1", Listen: "nowhere", TLS: mx1}, nil},
		{"no address to advertise", Options{Node: "mx1", Listen: "127.0.0.1:0", Advertise: "nowhere", TLS: mx1}, nil},
	} {
		g, err := Start(c.o)
		if err == nil {
			_ = g.end(false)
			t.Errorf("%s: started", c.what)
		}
		if c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	// With every interface the address of one is advertised, if there is one.
	g, err := Start(Options{Node: "mx1", Listen: "0.0.0.0:0", TLS: mx1})
	if err == nil {
		if a := g.Addr(); a.Addr().IsUnspecified() || a.Addr().IsLoopback() || a.Port() == 0 {
			t.Errorf("advertises %s", a)
		}
		_ = g.end(false)
	} else if !errors.Is(err, errAddr) {
		t.Error(err)
	}
	g, err = Start(Options{Node: "mx1", Listen: "0.0.0.0:0", Advertise: "192.0.2.1:7526", TLS: mx1})
	if err != nil {
		t.Fatal(err)
	}
	if g.Addr() != netip.MustParseAddrPort("192.0.2.1:7526") {
		t.Errorf("advertises %s", g.Addr())
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if err := g.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
}

// refused dials the node with a configuration and says what was said, and
// waits until the node has closed the connection.
func refused(t *testing.T, addr string, c *tls.Config, say []byte) bool {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	var conn net.Conn = raw
	if c != nil {
		conn = tls.Client(raw, c)
	}
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(say); err != nil {
		return true
	}
	// Pongs may come first; what counts is the end.
	_, err = io.Copy(io.Discard, conn)
	var timeout net.Error
	return !(errors.As(err, &timeout) && timeout.Timeout())
}

func greeting(name string) []byte { return hello(name, netip.MustParseAddrPort("127.0.0.1:1")) }

// Strangers, liars and garbage are turned away, and the cluster goes on.
func TestTurnedAway(t *testing.T) {
	c := newCluster(t)
	c.startAll("mx1", "mx2")
	addr := c.nodes["mx1"].Addr().String()
	good := identity(t, c.ca, pki.Node, "mx9")
	foreign := identity(t, authority(t), pki.Node, "mx2")
	admin := identity(t, c.ca, pki.Admin, "mx9")
	insecure := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpnPackets}}
	withName := func(id *pki.Identity, alpn string) *tls.Config { return id.Client("", alpn) }
	foreignCert := insecure.Clone()
	foreignCert.GetClientCertificate = foreign.Client("").GetClientCertificate
	for _, x := range []struct {
		what string
		c    *tls.Config
		say  []byte
	}{
		{"garbage without TLS", nil, []byte(strings.Repeat("garbage ", 100))},
		{"SMTP", nil, []byte("EHLO example.edu\r\n")},
		{"no certificate", insecure, greeting("mx2")},
		{"a foreign authority", foreignCert, greeting("mx2")},
		{"another protocol", withName(good, "h2"), greeting("mx9")},
		{"an operator", withName(admin, alpnPackets), greeting("mx9")},
		{"another's name", withName(good, alpnPackets), greeting("mx2")},
		{"another's name in a stream", withName(good, alpnStream), greeting("mx2")},
		{"the node's own name", withName(good, alpnPackets), greeting("mx1")},
		{"no name", withName(good, alpnPackets), []byte{0}},
		{"no address", withName(good, alpnPackets), append(greeting("mx9")[:4], "\x07garbage"...)},
		{"half a name", withName(good, alpnPackets), []byte{3, 'm'}},
		{"a compressed packet", withName(good, alpnPackets), append(greeting("mx9"), frame(nil, []byte{9, 1, 2, 3})...)},
		{"a long frame", withName(good, alpnPackets), append(greeting("mx9"), 0xff, 0xff)},
		{"silence", withName(good, alpnPackets), greeting("mx9")},
		{"a compressed stream", withName(good, alpnStream), append(greeting("mx9"), 9, 1, 2, 3)},
		{"an exchange of garbage", withName(good, alpnStream), append(greeting("mx9"), "\x06garbage"...)},
	} {
		t.Run(x.what, func(t *testing.T) {
			t.Parallel()
			if !refused(t, addr, x.c, x.say) {
				t.Error("it is still connected")
			}
		})
	}
	// A node of the cluster, whose certificate is good, under a name that is
	// not its own, all through: it is no member of the others.
	t.Cleanup(func() {
		for _, g := range c.nodes {
			if ms := g.Members(); len(ms) != 2 {
				t.Errorf("members are %v", brief(ms))
			}
			for _, m := range g.Members() {
				c.await("each", g, m.Node, Alive)
			}
		}
	})
}

// tries makes a dialer that says when a node has dialled an address so often
// that all tries but the last are over.
func tries(o *Options, addr string, n int) <-chan struct{} {
	over, inner, mu := make(chan struct{}), o.Dial, sync.Mutex{}
	o.Dial = func(ctx context.Context, network, to string) (net.Conn, error) {
		mu.Lock()
		if to == addr {
			if n--; n == 0 {
				close(over)
			}
		}
		mu.Unlock()
		return inner(ctx, network, to)
	}
	return over
}

func (c *cluster) strangers(nodes ...string) {
	c.t.Helper()
	for name, g := range c.nodes {
		for _, m := range g.Members() {
			for _, stranger := range nodes {
				if m.Node == stranger {
					c.t.Errorf("%s knows %s", name, stranger)
				}
			}
		}
	}
}

// A cluster of another authority that has ours as seed does not get in, nor
// do the two hear of each other.
func TestForeignCluster(t *testing.T) {
	t.Parallel()
	c, other := newCluster(t), newCluster(t)
	c.startAll("mx1", "mx2")
	other.startAll("mx3")
	ours := c.nodes["mx1"].Addr().String()
	other.seeds = append(other.seeds, ours)
	o := other.options("mx4")
	over := tries(&o, ours, 4)
	other.start(o)
	other.await("mx4", other.nodes["mx4"], "mx3", Alive)
	<-over
	c.strangers("mx3", "mx4")
	other.strangers("mx1", "mx2")
}

// liar shows one certificate to itself and another to the world.
type liar struct {
	TLS
	mu    sync.Mutex
	shown *pki.Identity
}

func (l *liar) Client(peer string, alpn ...string) *tls.Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id := l.shown; id != nil {
		l.shown = nil
		return id.Client(peer, alpn...)
	}
	return l.TLS.Client(peer, alpn...)
}

// A node of the cluster under a name that is not its certificate's.
func TestFalseName(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startAll("mx1", "mx2")
	o := c.options("mx9")
	o.Node = "mx7"
	o.TLS = &liar{TLS: o.TLS, shown: identity(t, authority(t), pki.Node, "mx7")}
	over := tries(&o, c.seeds[0], 4)
	g := c.start(o)
	<-over
	delete(c.nodes, "mx7")
	c.strangers("mx7", "mx9")
	if err := g.end(false); err != nil {
		t.Error(err)
	}
}

// Whoever connects and says nothing holds little.
func TestSilentFlood(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startAll("mx1", "mx2", "mx3")
	g := c.nodes["mx1"]
	for range 100 {
		raw, err := net.Dial("tcp", g.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		g.wire.mu.Lock()
		if n := g.wire.in.half[netip.MustParseAddr("127.0.0.1")]; n > maxHalfOpenIP {
			t.Errorf("%d in the handshake", n)
		}
		g.wire.mu.Unlock()
	}
	c.allAlive()
	// One more gets in once the silent have been given up.
	c.start(c.options("mx4"))
	c.allAlive()
}

func (c *cluster) allAlive() {
	c.t.Helper()
	for name, g := range c.nodes {
		for other := range c.nodes {
			c.await(name, g, other, Alive)
		}
	}
}

// A node that floods is cut down to what the others can bear.
func TestFlood(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startAll("mx1", "mx2", "mx3")
	g := c.nodes["mx1"]
	flooder := identity(t, c.ca, pki.Node, "mx9")
	b := frame(nil, append([]byte{3}, "garbage"...)) // a suspicion of nobody
	for range 10 {
		b = append(b, b...)
	}
	for range 10 {
		for _, alpn := range []string{alpnPackets, alpnStream} {
			conn, err := tls.Dial("tcp", g.Addr().String(), flooder.Client("mx1", alpn))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(greeting("mx9")); err != nil {
				t.Fatal(err)
			}
			for n := 0; n < 20 && alpn == alpnPackets && err == nil; n++ {
				_, err = conn.Write(b)
			}
			g.wire.mu.Lock()
			if n := len(g.wire.in.packets["mx9"]); n > maxPacketIn {
				t.Errorf("%d connections for packets", n)
			}
			if n := g.wire.in.streams["mx9"]; n > maxStreamsIn {
				t.Errorf("%d streams", n)
			}
			g.wire.mu.Unlock()
		}
	}
	c.allAlive()
	if n := len(g.Members()); n != 3 {
		t.Errorf("%d members", n)
	}
}

// The dead make room for new ones, and a table that is full takes nobody.
func TestTableIsBounded(t *testing.T) {
	tb := newTable("mx0", slog.New(slog.DiscardHandler))
	meta, err := Meta{}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	node := func(i int) *memberlist.Node {
		return &memberlist.Node{Name: fmt.Sprintf("mx%d", i), Addr: net.IPv4(10, 0, byte(i>>8), byte(i)), Port: 1, Meta: meta}
	}
	for i := range maxMembers {
		if err := tb.NotifyAlive(node(i)); err != nil {
			t.Fatal(i, err)
		}
		tb.NotifyJoin(node(i))
	}
	if err := tb.NotifyAlive(node(maxMembers)); !errors.Is(err, errFull) {
		t.Errorf("one too many: %v", err)
	}
	if err := tb.NotifyAlive(node(5)); err != nil {
		t.Errorf("one who is known: %v", err)
	}
	tb.NotifyLeave(node(7))
	if err := tb.NotifyAlive(node(maxMembers)); err != nil {
		t.Errorf("after one died: %v", err)
	}
	tb.NotifyJoin(node(maxMembers))
	if n := len(tb.members()); n != maxMembers {
		t.Errorf("%d members", n)
	}
	for _, bad := range []*memberlist.Node{
		{Name: "mx 1", Addr: net.IPv4(10, 0, 0, 1), Port: 1, Meta: meta},
		{Name: "mx1", Addr: net.IPv4(0, 0, 0, 0), Port: 1, Meta: meta},
		{Name: "mx1", Addr: net.IPv4(10, 0, 0, 1), Meta: meta},
		{Name: "mx1", Addr: []byte{1, 2, 3}, Port: 1, Meta: meta},
		{Name: "mx1", Addr: net.IPv4(224, 0, 0, 1), Port: 1, Meta: meta},
		{Name: "mx1", Addr: net.IPv4(10, 0, 0, 1), Port: 1},
		{Name: "mx1", Addr: net.IPv4(10, 0, 0, 1), Port: 1, Meta: []byte("garbage")},
	} {
		if tb.NotifyAlive(bad) == nil {
			t.Errorf("took %+v", bad)
		}
	}
	// The dead are forgotten after an hour, the silent suspected at once.
	tb.NotifyLeave(node(8))
	tb.tick(time.Now().Add(deadFor + time.Minute))
	if _, ok := find(tb.members(), "mx8"); ok {
		t.Error("a dead one is remembered for ever")
	}
	if m, _ := find(tb.members(), "mx9"); m.State != Suspect {
		t.Errorf("one that is silent is %s", m.State)
	}
	tb.forgive(time.Now())
	tb.heard("mx9", time.Now())
	if m, _ := find(tb.members(), "mx9"); m.State != Alive {
		t.Errorf("one that is heard is %s", m.State)
	}
}
