package admin_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"github.com/clrelay/clrelay/internal/admin/methods"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/configs"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// member is a node of an invented cluster: its queue is a list.
type member struct {
	name     string
	entries  []admin.Entry
	held     []int64 // what Expect changes that were made had, -1 for none
	dry      int     // dry runs
	racy     bool    // the queue grows between counting and changing
	peers    []admin.Peer
	progress []admin.DrainProgress
	applied  configs.Change
}

func (m *member) Summary(context.Context) (admin.Summary, error) {
	s := admin.Summary{Messages: int64(len(m.entries)), Active: int64(len(m.entries))}
	if len(m.entries) > 0 {
		s.Oldest = m.entries[0].Arrived
	}
	return s, nil
}

func (m *member) List(_ context.Context, sel *admin.Selector, visit func(*admin.Entry) error) error {
	for i := range m.entries {
		if e := m.entries[i]; sel.Match(&e) {
			if err := visit(&e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *member) Scan(ctx context.Context, sel *admin.Selector, visit func(*admin.Entry) error) error {
	return m.List(ctx, sel, func(e *admin.Entry) error {
		e.LastReply = mail.Reply{}
		return visit(e)
	})
}

func (m *member) Change(_ context.Context, c *admin.Change) (admin.Changed, error) {
	var out admin.Changed
	for i := range m.entries {
		if c.Selector.Match(&m.entries[i]) {
			out.Recipients++
			out.Messages++
		}
	}
	if m.racy && !c.DryRun {
		out.Recipients++
	}
	if c.Expect != nil && *c.Expect != out.Recipients {
		return admin.Changed{}, &admin.ExpectError{Want: *c.Expect, Got: out.Recipients}
	}
	if c.DryRun {
		m.dry++
		return out, nil
	}
	expect := int64(-1)
	if c.Expect != nil {
		expect = *c.Expect
	}
	m.held = append(m.held, expect)
	return out, nil
}

func (m *member) Show(_ context.Context, want mail.ID) (*admin.Message, error) {
	for _, e := range m.entries {
		if e.ID == want {
			return &admin.Message{Node: m.name, Envelope: &mail.Envelope{ID: want}}, nil
		}
	}
	return nil, admin.ErrNotFound
}

// Status answers for the node; the cluster's is below.
func (m *member) Status(context.Context) admin.Status {
	return admin.Status{Node: m.name, Ready: true, SMTP: []string{m.name + ":25"}, ConfigVersion: 5}
}

func (m *member) Others(context.Context) []admin.Peer { return m.peers }

func (m *member) Knows(node string) bool { return node != "removed" }

// control plays the control plane of a member.
type control struct{ *member }

func (c control) Status(context.Context) (admin.ClusterStatus, error) {
	return admin.ClusterStatus{Leader: "mx2", Term: 3, CommitIndex: 9, Quorum: true, Copies: 2, Notes: []string{"a note"}, Nodes: []admin.ClusterNode{
		{Name: "mx1", State: admin.NodeAlive, Voter: true, Segments: 4}, {Name: "mx2", State: admin.NodeDraining}, {Name: "mx3", State: admin.NodeDead, Segments: 1},
	}}, nil
}

func (c control) TransferLeader(_ context.Context, to string) (string, error) {
	if to == "mx9" {
		return "", admin.RefusedError("there is no mx9")
	}
	return to, nil
}

func (c control) Drain(_ context.Context, node string) error {
	switch node {
	case "mx2":
		return nil
	case "mx1":
		return admin.RefusedError("too few nodes")
	}
	return admin.ErrNoNode
}

func (c control) Resume(context.Context, string) error       { return nil }
func (c control) Remove(context.Context, string, bool) error { return nil }

func (c control) Progress(context.Context, string) (admin.DrainProgress, error) {
	p := c.member.progress[0]
	if len(c.member.progress) > 1 {
		c.member.progress = c.member.progress[1:]
	}
	return p, nil
}

func (c control) Get(_ context.Context, version uint64) (configs.Version, error) {
	if version > 7 {
		return configs.Version{}, configs.ErrNotKept
	}
	return configs.Version{Number: 7, Text: []byte("queue: {}\n"), Author: "admin ops"}, nil
}

func (c control) History(ctx context.Context) ([]configs.Version, error) {
	v, err := c.Get(ctx, 7)
	return []configs.Version{{Number: 6, Author: "mx1"}, v}, err
}

func (c control) Apply(_ context.Context, in configs.Change) (uint64, error) {
	if in.IfVersion == 6 {
		return 0, admin.RefusedError("it is 7")
	}
	c.applied = in
	return 8, nil
}

// planes is the control that serves configurations: mx1 itself, the others, and
// one that cannot be asked.
type planes struct{ control }

func (p planes) Nodes(ctx context.Context) ([]configs.Node, error) {
	out := []configs.Node{{Name: "mx1", Self: true, State: adminv1.NodeState_NODE_STATE_ALIVE}}
	for _, o := range p.Others(ctx) {
		out = append(out, configs.Node{Name: o.Name, Conn: o.Conn})
	}
	return append(out, configs.Node{Name: "mx9", State: adminv1.NodeState_NODE_STATE_DEAD}), nil
}

// authorities are the certificates of a cluster.
type authorities struct {
	node, admin, removed *pki.Identity
}

func certificates(t *testing.T) authorities {
	t.Helper()
	ca := t.TempDir()
	if _, err := pki.CreateCA(pki.CAOptions{Dir: ca}); err != nil {
		t.Fatal(err)
	}
	load := func(kind pki.Kind, name string) *pki.Identity {
		dir := t.TempDir()
		if _, err := pki.Create(pki.CertOptions{Dir: dir, CADir: ca, Kind: kind, Name: name}); err != nil {
			t.Fatal(err)
		}
		id, err := pki.Open(pki.Options{Dir: dir, Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	return authorities{load(pki.Node, "mx1"), load(pki.Admin, "ops"), load(pki.Node, "removed")}
}

// serve serves a member on a port with TLS and tells how to reach it as
// somebody; without an identity as nobody.
func serve(t *testing.T, m *member, who authorities) func(*pki.Identity) *grpc.ClientConn {
	t.Helper()
	c := control{m}
	srv := admin.New(admin.Options{Queue: m, Messages: m, Node: m, Cluster: c, Nodes: c, Configs: planes{c}, Peers: m,
		Metrics: metrics.New().Node, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	gs := grpc.NewServer(grpc.Creds(credentials.NewTLS(who.node.Server("h2"))), grpc.UnaryInterceptor(srv.Unary()), grpc.StreamInterceptor(srv.Stream()))
	srv.Register(gs)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- gs.Serve(l) }()
	t.Cleanup(func() {
		gs.Stop()
		srv.Shutdown(context.Background())
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return func(id *pki.Identity) *grpc.ClientConn {
		conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
		if id != nil {
			conf = id.Client("mx1", "h2")
		}
		conn, err := grpc.NewClient("passthrough:///"+m.name, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", l.Addr().String())
			}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() }) // nothing is under way
		return conn
	}
}

// call makes any call with an empty request, which has the same form for all.
func call(ctx context.Context, conn *grpc.ClientConn, method string, req any) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	err = stream.RecvMsg(&adminv1.SummaryRequest{})
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Who may call what, over the network.
func TestAccessByCertificate(t *testing.T) {
	who := certificates(t)
	m := &member{name: "mx1", progress: []admin.DrainProgress{{State: admin.NodeDrained}}}
	dial := serve(t, m, who)
	ops, node, removed, nobody := dial(who.admin), dial(who.node), dial(who.removed), dial(nil)
	local := &adminv1.Change{Local: true, Selector: &adminv1.Selector{Everything: true}}
	for _, c := range []struct {
		method string
		local  any // the request that a node may make; nil: none
	}{
		{"/admin.v1.QueueService/Summary", &adminv1.SummaryRequest{Local: true}},
		{"/admin.v1.QueueService/List", &adminv1.ListRequest{Local: true}},
		{"/admin.v1.QueueService/Shape", &adminv1.ShapeRequest{Local: true}},
		{"/admin.v1.QueueService/Reasons", &adminv1.ReasonsRequest{Local: true}},
		{"/admin.v1.QueueService/Retry", &adminv1.RetryRequest{Change: local}},
		{"/admin.v1.QueueService/Hold", &adminv1.HoldRequest{Change: local}},
		{"/admin.v1.QueueService/Release", &adminv1.ReleaseRequest{Change: local}},
		{"/admin.v1.QueueService/Drop", &adminv1.DropRequest{Change: local}},
		{"/admin.v1.QueueService/Bounce", &adminv1.BounceRequest{Change: local}},
		{"/admin.v1.MessageService/Show", &adminv1.ShowRequest{Local: true, Id: id(1).String()}},
		{"/admin.v1.NodeService/Status", &adminv1.StatusRequest{}},
		{"/grpc.health.v1.Health/Check", &adminv1.StatusRequest{}},
		{"/admin.v1.NodeService/Drain", nil},
		{"/admin.v1.NodeService/Resume", nil},
		{"/admin.v1.NodeService/Remove", nil},
		{"/admin.v1.ClusterService/Status", nil},
		{"/admin.v1.ClusterService/TransferLeader", nil},
		{"/admin.v1.ConfigService/Get", nil},
		{"/admin.v1.ConfigService/Apply", nil},
		{"/admin.v1.RescueService/Backup", nil},
		{"/admin.v1.RescueService/WriteOff", nil},
		{"/admin.v1.QueueService/Purge", nil},
	} {
		empty := &adminv1.StatusRequest{}
		if err := call(t.Context(), ops, c.method, empty); (status.Code(err) == codes.PermissionDenied || status.Code(err) == codes.Unimplemented) != (c.method == "/admin.v1.QueueService/Purge") {
			t.Errorf("%s as an operator: %v", c.method, err)
		}
		if c.local != nil {
			if err := call(t.Context(), node, c.method, c.local); status.Code(err) == codes.PermissionDenied {
				t.Errorf("%s as a node: %v", c.method, err)
			}
			wantCode(t, call(t.Context(), removed, c.method, c.local), codes.PermissionDenied)
		}
		open, mustBeLocal := methods.OpenToNodes(c.method)
		if open != (c.local != nil) {
			t.Errorf("%s is open to nodes: %v", c.method, open)
		}
		if err := call(t.Context(), node, c.method, empty); (!open || mustBeLocal) && status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unimplemented {
			t.Errorf("%s as a node, not local: %v", c.method, err)
		}
		wantCode(t, call(t.Context(), nobody, c.method, empty), codes.Unavailable) // the handshake fails
	}
}

// dead is a node that nobody can reach.
func dead(t *testing.T, name string) admin.Peer {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+name, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("unreachable") }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // nothing is under way
	return admin.Peer{Name: name, Conn: conn}
}

// world is three nodes, of which mx1 is asked. Their messages came in turn.
func world(t *testing.T) (client *grpc.ClientConn, nodes []*member) {
	t.Helper()
	who := certificates(t)
	for i := range 3 {
		nodes = append(nodes, &member{name: fmt.Sprintf("mx%d", i+1)})
	}
	for i := range 1000 {
		m := nodes[i*i%7%3]
		m.entries = append(m.entries, admin.Entry{
			ID: mail.ID{1, byte(i >> 8), byte(i)}, Node: m.name, To: mail.Address{Local: fmt.Sprint(i), Domain: "x.example"}, Arrived: arrived.Add(time.Duration(i) * time.Millisecond),
		})
	}
	for _, m := range nodes[1:] {
		nodes[0].peers = append(nodes[0].peers, admin.Peer{Name: m.name, Conn: serve(t, m, who)(who.node)})
	}
	return serve(t, nodes[0], who)(who.admin), nodes
}

func listed(t *testing.T, client *grpc.ClientConn, req *adminv1.ListRequest) (rows []*adminv1.QueueEntry, missing []string, err error) {
	t.Helper()
	stream, err := adminv1.NewQueueServiceClient(client).List(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for {
		b, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return rows, missing, nil
		case err != nil:
			return rows, missing, err
		}
		rows = append(rows, b.GetEntries()...)
		missing = append(missing, b.GetMissingNodes()...)
	}
}

func TestListOfAllNodes(t *testing.T) {
	client, nodes := world(t)
	rows, missing, err := listed(t, client, &adminv1.ListRequest{})
	if err != nil || missing != nil || len(rows) != 1000 {
		t.Fatalf("%d rows, missing %v, %v", len(rows), missing, err)
	}
	for i, r := range rows {
		if want := fmt.Sprintf("%d@x.example", i); r.GetRcpt() != want {
			t.Fatalf("row %d is %s", i, r.GetRcpt())
		}
	}
	if rows, _, err := listed(t, client, &adminv1.ListRequest{Limit: 10}); err != nil || len(rows) != 10 || rows[9].GetRcpt() != "9@x.example" {
		t.Errorf("with a limit: %d rows, %v", len(rows), err)
	}
	far := nodes[2].entries[0].ID.String()
	if rows, _, err := listed(t, client, &adminv1.ListRequest{Selector: &adminv1.Selector{Ids: []string{far}}}); err != nil || len(rows) != 1 || rows[0].GetNode() != "mx3" {
		t.Errorf("by ID: %v, %v", rows, err)
	}
	_, _, err = listed(t, client, &adminv1.ListRequest{Selector: &adminv1.Selector{Ids: []string{far, id(200).String()}}})
	wantCode(t, err, codes.NotFound)

	nodes[0].peers[0] = dead(t, "mx2")
	rows, missing, err = listed(t, client, &adminv1.ListRequest{})
	if err != nil || !slices.Equal(missing, []string{"mx2"}) || len(rows) != len(nodes[0].entries)+len(nodes[2].entries) {
		t.Errorf("%d rows, missing %v, %v", len(rows), missing, err)
	}
	_, _, err = listed(t, client, &adminv1.ListRequest{Selector: &adminv1.Selector{Ids: []string{id(200).String()}}})
	wantCode(t, err, codes.Unavailable)
}

func TestSummaryAndShowOfAllNodes(t *testing.T) {
	client, nodes := world(t)
	queue, messages := adminv1.NewQueueServiceClient(client), adminv1.NewMessageServiceClient(client)
	res, err := queue.Summary(t.Context(), &adminv1.SummaryRequest{})
	if err != nil || res.GetRecipients() != 1000 || res.GetMissingNodes() != nil {
		t.Errorf("summary: %v, %v", res, err)
	}
	msg, err := messages.Show(t.Context(), &adminv1.ShowRequest{Id: nodes[1].entries[0].ID.String()})
	if err != nil || msg.GetMessage().GetNode() != "mx2" {
		t.Errorf("show: %v, %v", msg, err)
	}
	_, err = messages.Show(t.Context(), &adminv1.ShowRequest{Id: id(200).String()})
	wantCode(t, err, codes.NotFound)

	nodes[0].peers[1] = dead(t, "mx3")
	res, err = queue.Summary(t.Context(), &adminv1.SummaryRequest{})
	if err != nil || res.GetRecipients() != int64(1000-len(nodes[2].entries)) || !slices.Equal(res.GetMissingNodes(), []string{"mx3"}) {
		t.Errorf("summary: %v, %v", res, err)
	}
	_, err = messages.Show(t.Context(), &adminv1.ShowRequest{Id: id(200).String()})
	wantCode(t, err, codes.Unavailable)
}

// What is expected is the sum, and each node is then held to its own count.
func TestExpectOfAllNodes(t *testing.T) {
	client, nodes := world(t)
	queue := adminv1.NewQueueServiceClient(client)
	drop := func(expect int64) (*adminv1.ChangeResult, error) {
		res, err := queue.Drop(t.Context(), &adminv1.DropRequest{Change: &adminv1.Change{Selector: &adminv1.Selector{Everything: true}, Expect: &expect}})
		return res.GetResult(), err
	}
	_, err := drop(999)
	wantCode(t, err, codes.FailedPrecondition)
	if !strings.Contains(fmt.Sprint(err), "expected 999 recipients, found 1000") {
		t.Error(err)
	}
	for _, m := range nodes {
		if len(m.held) > 0 {
			t.Fatalf("%s was changed", m.name)
		}
	}
	if res, err := drop(1000); err != nil || res.GetRecipients() != 1000 || res.GetFailed() != 0 {
		t.Errorf("%v, %v", res, err)
	}
	for _, m := range nodes {
		if want := int64(len(m.entries)); len(m.held) != 1 || m.held[0] != want {
			t.Errorf("%s was held to %v, want %d", m.name, m.held, want)
		}
	}
	nodes[2].racy = true
	if res, err := drop(1000); err != nil || res.GetRecipients() != 1000 || res.GetFailed() != int64(len(nodes[2].entries)) {
		t.Errorf("a queue that grew meanwhile: %v, %v", res, err)
	}
	nodes[0].peers[1] = dead(t, "mx3")
	left := int64(1000 - len(nodes[2].entries))
	if res, err := drop(left); err != nil || res.GetRecipients() != left || !slices.Equal(res.GetMissingNodes(), []string{"mx3"}) {
		t.Errorf("without mx3: %v, %v", res, err)
	}
}

func TestClusterNodesAndConfig(t *testing.T) {
	client, nodes := world(t)
	nodes[0].peers[1] = dead(t, "mx3")
	st, err := adminv1.NewClusterServiceClient(client).Status(t.Context(), &adminv1.ClusterServiceStatusRequest{})
	if err != nil || st.GetLeader() != "mx2" || !st.GetQuorum() || len(st.GetNodes()) != 3 {
		t.Fatalf("%v, %v", st, err)
	}
	for i, m := range nodes[:2] {
		if got := st.GetNodes()[i].Queued; got == nil || *got != int64(len(m.entries)) {
			t.Errorf("%s has %v queued", m.name, got)
		}
	}
	if n := st.GetNodes()[2]; n.Queued != nil || n.GetState() != adminv1.NodeState_NODE_STATE_DEAD {
		t.Errorf("mx3 is %v", n)
	}
	_, err = adminv1.NewClusterServiceClient(client).TransferLeader(t.Context(), &adminv1.TransferLeaderRequest{To: "mx9"})
	wantCode(t, err, codes.FailedPrecondition)

	nodes[0].progress = []admin.DrainProgress{{State: admin.NodeDraining, Owned: 1, Copies: 2}, {State: admin.NodeDrained, Sessions: 1}, {State: admin.NodeDrained}}
	node := adminv1.NewNodeServiceClient(client)
	drain := func(name string) (last *adminv1.DrainResponse, n int, err error) {
		stream, err := node.Drain(t.Context(), &adminv1.DrainRequest{Node: name})
		for err == nil {
			var p *adminv1.DrainResponse
			if p, err = stream.Recv(); err == nil {
				last, n = p, n+1
			}
		}
		return last, n, err
	}
	if last, n, err := drain("mx2"); !errors.Is(err, io.EOF) || n != 3 || !last.GetDone() || last.Queued == nil {
		t.Errorf("%d words, the last %v, %v", n, last, err)
	}
	nodes[0].progress = []admin.DrainProgress{{State: admin.NodeAlive}}
	for name, want := range map[string]codes.Code{"mx1": codes.FailedPrecondition, "mx8": codes.NotFound, "mx2": codes.Aborted} {
		_, _, err := drain(name)
		wantCode(t, err, want)
	}

	conf := adminv1.NewConfigServiceClient(client)
	if got, err := conf.Get(t.Context(), &adminv1.ConfigServiceGetRequest{}); err != nil || got.GetVersion() != 7 {
		t.Errorf("%v, %v", got, err)
	}
	_, err = conf.Apply(t.Context(), &adminv1.ConfigServiceApplyRequest{Text: []byte("x"), IfVersion: 6})
	wantCode(t, err, codes.FailedPrecondition)
	_, err = conf.Apply(t.Context(), &adminv1.ConfigServiceApplyRequest{})
	wantCode(t, err, codes.InvalidArgument)
	_, err = conf.Get(t.Context(), &adminv1.ConfigServiceGetRequest{Version: 8})
	wantCode(t, err, codes.NotFound)
	if got, err := conf.History(t.Context(), &adminv1.ConfigServiceHistoryRequest{}); err != nil || len(got.GetVersions()) != 2 || got.GetVersions()[0].GetVersion() != 7 || got.GetVersions()[0].GetSize() != 10 {
		t.Errorf("%v, %v", got, err)
	}
	told, err := conf.Nodes(t.Context(), &adminv1.ConfigServiceNodesRequest{})
	if err != nil || len(told.GetNodes()) != 4 {
		t.Fatalf("%v, %v", told, err)
	}
	for i, want := range []struct {
		name    string
		answers bool
	}{{"mx1", true}, {"mx2", true}, {"mx3", false}, {"mx9", false}} {
		n := told.GetNodes()[i]
		if n.GetName() != want.name || (n.Version != nil) != want.answers || (n.GetError() == "") != want.answers || want.answers && n.GetVersion() != 5 {
			t.Errorf("%v", n)
		}
	}
	if got, err := conf.Apply(t.Context(), &adminv1.ConfigServiceApplyRequest{Text: []byte("x"), Reason: "why"}); err != nil || got.GetVersion() != 8 || nodes[0].applied.Author != "admin ops" {
		t.Errorf("%v, %v, by %q", got, err, nodes[0].applied.Author)
	}
}

// A relay that is alone is a cluster of one, and has nobody to hand anything to.
func TestAlone(t *testing.T) {
	conn, _ := start(t, &fakeQueue{})
	st, err := adminv1.NewClusterServiceClient(conn).Status(t.Context(), &adminv1.ClusterServiceStatusRequest{})
	if err != nil || st.GetLeader() != "mx1" || !st.GetQuorum() || len(st.GetNodes()) != 1 || !st.GetNodes()[0].GetVoter() || st.GetNodes()[0].GetQueued() != 6 {
		t.Errorf("%v, %v", st, err)
	}
	_, err = adminv1.NewNodeServiceClient(conn).Resume(t.Context(), &adminv1.ResumeRequest{Node: "mx1"})
	wantCode(t, err, codes.FailedPrecondition)
	_, err = adminv1.NewConfigServiceClient(conn).Get(t.Context(), &adminv1.ConfigServiceGetRequest{})
	wantCode(t, err, codes.FailedPrecondition)
	_, err = adminv1.NewConfigServiceClient(conn).Nodes(t.Context(), &adminv1.ConfigServiceNodesRequest{})
	wantCode(t, err, codes.FailedPrecondition)
	wantCode(t, call(t.Context(), conn, "/admin.v1.NodeService/Drain", &adminv1.DrainRequest{Node: "mx1"}), codes.FailedPrecondition)
}
