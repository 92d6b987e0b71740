package cli_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/audit"
	"github.com/clrelay/clrelay/internal/admin/certs"
	"github.com/clrelay/clrelay/internal/admin/rescue"
	"github.com/clrelay/clrelay/internal/ledger"
	"github.com/clrelay/clrelay/internal/roles"
)

// control is the control plane of an invented cluster of three nodes, of which
// mx1 is asked. mx3 is silent; with lost set it may own mail.
type control struct {
	*relay
	lost  *grpc.ClientConn
	words int // on the draining of mx2
}

func (c *control) Status(context.Context) (admin.ClusterStatus, error) {
	return admin.ClusterStatus{
		Leader: "mx1", Term: 14, CommitIndex: 1204, Quorum: c.lost == nil, Copies: 2, UnderReplicated: 1, Lost: 2, Level: 1, Notes: []string{"mx3 is silent"},
		Nodes: []admin.ClusterNode{
			{Name: "mx1", State: admin.NodeAlive, Voter: true, SMTP: []string{"10.0.0.1:25"}, Segments: 4, Copies: 8, Sessions: 310, Version: "v1", Zone: "a", Addr: "10.0.0.1:7525", Level: 2},
			{Name: "mx2", State: admin.NodeDraining, Voter: true, SMTP: []string{"10.0.0.2:25"}, Version: "v1", Zone: "b", Addr: "10.0.0.2:7525", Level: 1},
			{Name: "mx3", State: admin.NodeDead, Voter: true, Version: "v1"},
			{Name: "mx4", State: admin.NodeLeft},
		},
	}, nil
}

func (c *control) TransferLeader(_ context.Context, to string) (string, error) {
	switch to {
	case "":
		return "mx2", nil
	case "mx2":
		return to, nil
	}
	return "", admin.RefusedError("there is no other voter " + to)
}

func (c *control) Drain(_ context.Context, node string) error {
	switch node {
	case "mx2", "mx3":
		return nil
	case "mx1":
		return admin.RefusedError("mx1 cannot be drained: too few nodes would stay in service")
	case "mx4":
		return errors.Join(admin.ErrUnavailable, errors.New("the cluster has no leader"))
	}
	return admin.ErrNoNode
}

func (c *control) Progress(_ context.Context, node string) (admin.DrainProgress, error) {
	if node == "mx3" {
		return admin.DrainProgress{State: admin.NodeDraining, Owned: 1, Copies: 2, Blocked: "mx3 is silent"}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.words++; c.words%2 == 1 {
		return admin.DrainProgress{State: admin.NodeDraining, Owned: 1, Copies: 3, Sessions: 2}, nil
	}
	return admin.DrainProgress{State: admin.NodeDrained}, nil
}

func (c *control) Resume(_ context.Context, node string) error {
	if node != "mx2" {
		return admin.ErrNoNode
	}
	return nil
}

func (c *control) Remove(_ context.Context, node string, force bool) error {
	if !force {
		return admin.RefusedError(node + " cannot be removed: it is not drained")
	}
	return nil
}

func (c *control) Others(context.Context) []admin.Peer {
	if c.lost == nil {
		return nil
	}
	return []admin.Peer{{Name: "mx3", Conn: c.lost}}
}

func (c *control) Knows(string) bool { return true }

// certificates makes the folders tls, with those of an operator, and foreign,
// with those of another cluster's.
func certificates(dir string) (node *pki.Identity, err error) {
	made := func(_ pki.Made, e error) { err = errors.Join(err, e) }
	for _, name := range []string{"tls", "foreign"} {
		d := filepath.Join(dir, name)
		made(pki.CreateCA(pki.CAOptions{Dir: d}))
		made(pki.Create(pki.CertOptions{Kind: pki.Admin, Dir: d, Name: "ops"}))
	}
	for name, role := range map[string]roles.Role{"viewer": roles.Viewer, "auditor": roles.Auditor, "bound": roles.Viewer, "gone": ""} {
		made(pki.Create(pki.CertOptions{Kind: pki.Admin, Dir: filepath.Join(dir, name), CADir: filepath.Join(dir, "tls"), Name: name, Role: role}))
	}
	made(pki.Create(pki.CertOptions{Kind: pki.Node, Dir: filepath.Join(dir, "node"), CADir: filepath.Join(dir, "tls"), Name: "mx1"}))
	if err != nil {
		return nil, err
	}
	return pki.Load(filepath.Join(dir, "node"))
}

// serveCluster serves the invented cluster over the network: CLUSTER is where
// all nodes that count answer, PARTLY where mx3 does not.
func serveCluster(env *testscript.Env, fail func(error)) error {
	node, err := certificates(env.WorkDir)
	if err != nil {
		return err
	}
	lost, err := grpc.NewClient("passthrough:///mx3", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("unreachable") }))
	if err != nil {
		return err
	}
	env.Defer(func() { fail(lost.Close()) })
	for name, lost := range map[string]*grpc.ClientConn{"CLUSTER": nil, "PARTLY": lost} {
		conf := newConfigurations(lost)
		c := &control{relay: newRelay(), lost: lost}
		c.relay.conf = conf
		o := adminOptions(c.relay)
		o.Cluster, o.Nodes, o.Configs, o.Peers, o.Rescue = c, c, conf, c, plane{}
		o.Certs = &certs.Plane{}
		if err := errors.Join(keepsAudits(env, &o, name), certPlane(env, o.Certs, name == "CLUSTER")); err != nil {
			return err
		}
		o.Traces, o.Content = traces(env), contents{}
		srv := admin.New(o)
		gs := grpc.NewServer(grpc.Creds(credentials.NewTLS(node.Server("h2"))), grpc.UnaryInterceptor(srv.Unary()), grpc.StreamInterceptor(srv.Stream()))
		srv.Register(gs)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		env.Setenv(name, l.Addr().String())
		served := make(chan error, 1)
		go func() { served <- gs.Serve(l) }()
		env.Defer(func() {
			gs.Stop()
			srv.Shutdown(context.Background())
			fail(<-served)
		})
	}
	return nil
}

// keepsAudits gives a server an audit log in the folder FOLDER, and bindings.
func keepsAudits(env *testscript.Env, o *admin.Options, folder string) error {
	dir := filepath.Join(env.WorkDir, folder)
	files, err := ledger.Open(filepath.Join(dir, "audit"))
	if err != nil {
		return err
	}
	env.Defer(func() { _ = files.Close() }) // its files are thrown away
	local, err := ledger.OpenLocal(dir, files)
	if err != nil {
		return err
	}
	o.Name, o.Audit = "mx1", &audit.Log{Files: files, Chain: local}
	o.Recorder = &audit.Recorder{Keeper: local, Node: "mx1", Log: o.Log, Now: now}
	o.Bindings = func() []roles.Binding {
		return []roles.Binding{{Name: "bound", Role: roles.Support, Content: true}, {Name: "gone", Role: roles.None}}
	}
	return nil
}

// plane is the control plane of the invented cluster: of two segments no disk
// is left, and one may be on mx2's.
type plane struct{}

func (plane) Backup(context.Context) (rescue.Backup, error) {
	s := fsm.New()
	register, err := fsm.Encode(fsm.Register{Node: "mx1", Store: fsm.StoreID{1}, Info: fsm.NodeInfo{Features: fsm.KnownLevel}, Nonce: [16]byte{1}})
	s.Apply(1204, register)
	return rescue.Backup{
		Node: "mx1", Generation: 1, Term: 14, Index: 1204, Leader: "mx1", Quorum: true, Nodes: []string{"mx1", "mx2", "mx3"}, Segments: 3, State: s.Snapshot(),
	}, err
}

func (plane) WriteOff(_ context.Context, w rescue.WriteOff) ([]rescue.Segment, error) {
	all := []rescue.Segment{
		{ID: "1.5-9", Owner: "mx3", Members: []string{"mx3/0a0b0c0d", "mx4/01020304"}, End: 12, EndSet: true},
		{ID: "1.6-1", Owner: "mx4", Members: []string{"mx4/01020304"}},
	}
	switch {
	case slices.Contains(w.Segments, "1.7-1"):
		return nil, admin.RefusedError("the write-off did not succeed: mx2/11223344 may have a copy of 1.7-1")
	case len(w.Segments) > 0 && w.Segments[0] != "1.5-9":
		return nil, admin.ErrNotFound
	case len(w.Segments) > 0:
		all = all[:1]
	}
	if w.Expect != nil && *w.Expect != int64(len(all)) {
		return nil, admin.RefusedError("expected another number")
	}
	if w.Reason == "late" {
		all[1].Refused = "the segment has changed since"
	}
	return all, nil
}
