package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/cmd/clrelay/demo/world/post"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	termSignal = syscall.SIGTERM
	killSignal = syscall.SIGKILL
)

const nodeYAML = `node: %s
hostname: %s.demo.test
data_dir: %s
smtp:
  - {listen: %q, mode: relay}
http: %q
cluster_config: %s
`

// A node listens on an address of its own and is reached at 127.0.0.1, where
// the demo's network stands in between.
const memberYAML = `cluster: {listen: "%[1]s:%[2]s", gossip: "%[1]s:%[3]s", advertise: 127.0.0.1, join: [%[4]s]%[5]s}
tls_dir: %[6]s
`

const clusterYAML = `senders:
  - {name: office, networks: [127.0.0.0/8]}
domains:
  - {name: ` + post.HomeDomain + `}
postmaster: postmaster@` + post.HomeDomain + `
routes:
  - {match: {}, action: {mx: true}}
deliver: {mx_port: %s}
queue: {retry: [%s], expire: 1h}
dns: {servers: [%q]}
`

// found writes the configuration of the first nodes.
func (w *World) found() error {
	retry := "2s, 3s, 5s"
	if w.o.Nodes == 1 {
		retry = "3s, 5s, 10s, 20s"
	}
	text := fmt.Sprintf(clusterYAML, w.inbox.Port(), retry, w.dnsAt)
	if err := os.WriteFile(w.clusterConfig(), []byte(text), 0o644); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if w.o.Nodes > 1 {
		if _, err := pki.CreateCA(pki.CAOptions{Dir: w.TLS(), Now: time.Now}); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		if _, err := pki.Create(pki.CertOptions{Kind: pki.Admin, Dir: w.TLS(), Name: "demo", Now: time.Now}); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
	}
	var ports [][2]string
	for i := range w.o.Nodes {
		p, err := w.ports(i)
		if err != nil {
			return err
		}
		ports = append(ports, p)
	}
	for i := range w.o.Nodes {
		if _, err := w.create(i, ports, w.o.Nodes); err != nil {
			return err
		}
	}
	w.founders = ports
	return nil
}

// TLS is the folder of the operator's certificate.
func (w *World) TLS() string { return filepath.Join(w.dir, "tls") }

func (w *World) clusterConfig() string { return filepath.Join(w.dir, "cluster.yaml") }

// host is the address that a node listens on for the others.
func host(i int) string { return fmt.Sprintf("127.0.1.%d", i+1) }

func nameFor(i int) string { return fmt.Sprintf("mx%d", i+1) }

// ports opens the ways to a node's two ports.
func (w *World) ports(i int) (p [2]string, err error) {
	if w.o.Nodes == 1 {
		return p, nil
	}
	for k := range p {
		if p[k], err = w.links.open(nameFor(i), host(i)); err != nil {
			return p, err
		}
	}
	return p, nil
}

// create makes the next node; known are the ports of the nodes to join, or of
// those that found the cluster together, this one among them.
func (w *World) create(i int, known [][2]string, expect int) (*Node, error) {
	n := &Node{Name: nameFor(i), binary: w.o.Binary, dir: filepath.Join(w.dir, nameFor(i)), ended: w.endedByItself}
	var err error
	if n.SMTP, err = freeAddr(fmt.Sprintf("127.0.0.1:%d", w.firstPort()+i)); err != nil {
		return nil, err
	}
	if n.HTTP, err = freeAddr(fmt.Sprintf("127.0.0.1:%d", 7580+i)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	text := fmt.Sprintf(nodeYAML, n.Name, n.Name, n.data(), n.SMTP, n.HTTP, w.clusterConfig())
	if w.o.Nodes > 1 {
		tls := filepath.Join(n.dir, "tls")
		if _, err := pki.Create(pki.CertOptions{Kind: pki.Node, Dir: tls, CADir: w.TLS(), Name: n.Name, Now: time.Now}); err != nil {
			return nil, fmt.Errorf("demo: %w", err)
		}
		own := known[min(i, len(known)-1)]
		var seeds []string
		for _, p := range known {
			seeds = append(seeds, fmt.Sprintf("%q", "127.0.0.1:"+p[1]))
		}
		more := ""
		if expect > 0 {
			more = fmt.Sprintf(", bootstrap_expect: %d", expect)
		}
		text += fmt.Sprintf(memberYAML, host(i), own[0], own[1], strings.Join(seeds, ", "), more, tls)
	}
	if err := os.WriteFile(filepath.Join(n.dir, "node.yaml"), []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	if err := n.connect(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.nodes = append(w.nodes, n)
	w.mu.Unlock()
	return n, nil
}

// ownerOf finds the node whose process has a socket.
func (w *World) ownerOf(inode uint64) string {
	for _, n := range w.Nodes() {
		if pid := n.pid(); pid != 0 && holds(pid, inode) {
			return n.Name
		}
	}
	return ""
}

func (w *World) endedByItself(n *Node, err error) {
	w.Say("%s ended by itself: %v", n.Name, err)
	select {
	case w.failed <- fmt.Errorf("demo: %s ended by itself (%w)\n%s", n.Name, err, lastOf(n.logPath())):
	default:
	}
}

// lastOf gives the end of a file, for an error.
func lastOf(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// awaitReady waits until a node takes mail.
func (w *World) awaitReady(ctx context.Context, n *Node, limit time.Duration) error {
	if w.Until(ctx, limit, func() bool { l := n.Look(); return l.Ready && l.Balanced }) {
		return nil
	}
	select {
	case err := <-w.failed:
		return err
	default:
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("demo: %s does not take mail after %v: %s\n%s", n.Name, limit, n.Look().Why, lastOf(n.logPath()))
}

// Until waits for a fact and tells whether it came true before limit.
func (w *World) Until(ctx context.Context, limit time.Duration, fact func() bool) bool {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.After(limit)
	for !fact() {
		select {
		case <-tick.C:
		case <-end:
			return fact()
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// watch looks at a node again and again and says what changed.
func (w *World) watch(n *Node) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-tick.C:
		}
		old := n.Look()
		n.see(w.ctx)
		w.compareLooks(n, old, n.Look())
	}
}

// compareLooks says what became different at a node.
func (w *World) compareLooks(n *Node, old, now Look) {
	if w.o.Nodes == 1 || old.At.IsZero() {
		return
	}
	switch {
	case old.Ready && !now.Ready && now.Running && !now.Paused && now.Why != "":
		w.Say("%s takes no mail now: %s", n.Name, now.Why)
	case !old.Ready && now.Ready && !old.Paused:
		w.Say("%s takes mail: it owns %d segments and keeps copies of %d", n.Name, now.Owned(), now.Member)
	}
	if k := now.Takeovers - old.Takeovers; k > 0 && now.Running {
		w.Say("%s took over %d segments of another node; %d messages in its queue", n.Name, k, now.Queued)
	}
}

// Kill ends a node at once, and with wipe its disk with it.
func (w *World) Kill(n *Node, wipe bool) error {
	n.see(w.ctx) // what it counted so far
	l := n.Look()
	err := n.end(killSignal)
	what := "is killed (SIGKILL)"
	if wipe {
		what = "is killed (SIGKILL) and its disk is erased"
		err = errors.Join(err, os.RemoveAll(n.data()))
	}
	w.Say("%s %s: it owned %d segments with %d messages", n.Name, what, l.Owned(), l.Queued)
	n.see(w.ctx)
	return err
}

// Terminate ends a node as an administrator would.
func (w *World) Terminate(n *Node) error {
	n.see(w.ctx)
	w.Say("%s is stopped (SIGTERM)", n.Name)
	err := n.end(termSignal)
	n.see(w.ctx)
	return err
}

// Bring makes a node run again, whatever became of it.
func (w *World) Bring(n *Node) error {
	l := n.Look()
	switch {
	case l.Paused:
		n.pause(false)
		w.Say("%s goes on (SIGCONT)", n.Name)
	case !n.running():
		w.Say("%s is started again", n.Name)
		return n.start()
	case l.Cut:
		return w.Cut(n, false)
	}
	return nil
}

// Pause stops a node's process where it stands.
func (w *World) Pause(n *Node) {
	n.see(w.ctx)
	n.pause(true)
	w.Say("%s is paused (SIGSTOP)", n.Name)
}

// Cut takes a node off the network between the nodes, or puts it back.
// Clients and next hops still reach it and are reached.
func (w *World) Cut(n *Node, cut bool) error {
	w.links.set(n.Name, cut)
	n.mu.Lock()
	n.cut = cut
	n.mu.Unlock()
	if cut {
		w.Say("%s is cut off from the other nodes; clients and mail servers still reach it", n.Name)
	} else {
		w.Say("%s is connected with the others again", n.Name)
	}
	return nil
}

// Add makes one more node and starts it.
func (w *World) Add() (*Node, error) {
	nodes := w.Nodes()
	if w.o.Nodes == 1 || len(nodes) >= MaxNodes {
		return nil, fmt.Errorf("demo: %d nodes are all that this demo can hold", len(nodes))
	}
	p, err := w.ports(len(nodes))
	if err != nil {
		return nil, err
	}
	n, err := w.create(len(nodes), append(append([][2]string(nil), w.founders...), p), 0)
	if err != nil {
		return nil, err
	}
	w.Say("%s is started, empty, and joins", n.Name)
	if err := n.start(); err != nil {
		return nil, err
	}
	w.group.Go(func() { w.watch(n) })
	return n, nil
}

// other gives a node that can be asked for something about n.
func (w *World) other(n *Node) (*Node, error) {
	for _, o := range w.Nodes() {
		if l := o.Look(); l.Ready && !l.Cut && o != n {
			return o, nil
		}
	}
	return nil, errors.New("demo: no other node is ready")
}

// Drain takes a node out of service and waits until it holds nothing.
func (w *World) Drain(ctx context.Context, n *Node) error {
	via, err := w.other(n)
	if err != nil {
		return err
	}
	w.Say("%s is being drained (clrelay node drain %s)", n.Name, n.Name)
	stream, err := adminv1.NewNodeServiceClient(via.conn).Drain(ctx, &adminv1.DrainRequest{Node: n.Name})
	if err != nil {
		return fmt.Errorf("demo: draining %s: %w", n.Name, err)
	}
	last := ""
	for {
		p, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("demo: draining %s: %w", n.Name, err)
		case p.GetDone():
			w.Say("%s is drained: it owns no segment and keeps no copy", n.Name)
			return nil
		}
		text := fmt.Sprintf("%s drains: %d segments, %d copies, %d sessions left", n.Name, p.GetSegments(), p.GetCopies(), p.GetSessions())
		if p.GetBlocked() != "" {
			text += ": " + p.GetBlocked()
		}
		if text != last {
			w.Say("%s", text)
			last = text
		}
	}
}

// Resume puts a drained node into service again.
func (w *World) Resume(ctx context.Context, n *Node) error {
	via, err := w.other(n)
	if err != nil {
		return err
	}
	w.Say("%s is put into service again (clrelay node resume %s)", n.Name, n.Name)
	if _, err := adminv1.NewNodeServiceClient(via.conn).Resume(ctx, &adminv1.ResumeRequest{Node: n.Name}); err != nil {
		return fmt.Errorf("demo: resuming %s: %w", n.Name, err)
	}
	return nil
}

// AwaitReady waits until a node takes mail.
func (w *World) AwaitReady(ctx context.Context, n *Node) error {
	return w.awaitReady(ctx, n, 30*time.Second)
}

// firstPort is the wish for the first node's SMTP port: the clients' is 2525,
// which is the front's where there is one.
func (w *World) firstPort() int {
	if w.o.Nodes == 1 {
		return 2525
	}
	return 2526
}
