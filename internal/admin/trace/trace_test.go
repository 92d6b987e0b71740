package trace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/tracelog"
	"github.com/clrelay/clrelay/internal/tracelog/record"
	"github.com/clrelay/clrelay/internal/vfs"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var birth = time.Date(2026, 11, 23, 9, 12, 1, 0, time.UTC)

func idAt(n int) string { return mail.NewID(birth.Add(time.Duration(n) * time.Minute)).String() }

// ev is an event some seconds after birth.
func ev(seconds int, node, what, id string, rcpts ...string) *adminv1.TraceEvent {
	return &adminv1.TraceEvent{Time: timestamppb.New(birth.Add(time.Duration(seconds) * time.Second)), Node: node, Event: what, Id: id, From: "s@example.edu", Rcpts: rcpts}
}

func TestStoryInOrder(t *testing.T) {
	id, report := idAt(0), idAt(1)
	accepted := ev(0, "mx1", "accepted", id, "a@x", "b@x")
	accepted.Recipients, accepted.Size, accepted.MessageId, accepted.Took = 2, 4711, "m@x", durationpb.New(500*time.Millisecond)
	dsn := ev(9, "mx3", "dsn", report)
	dsn.Of, dsn.From = id, ""
	events := []*adminv1.TraceEvent{
		dsn, ev(8, "mx3", "bounced", id, "b@x"), ev(3, "mx2", "deferred", id, "a@x"), accepted, ev(5, "mx3", "delivered", id, "a@x"), ev(3, "mx2", "deferred", id, "a@x"),
	}
	found := joined(gather(events[1:5]), events)
	if len(found) != 1 {
		t.Fatalf("%d messages", len(found))
	}
	m := found[0]
	var words []string
	for _, e := range m.GetEvents() {
		words = append(words, e.GetNode()+" "+e.GetEvent())
	}
	if got, want := strings.Join(words, ", "), "mx1 accepted, mx2 deferred, mx3 delivered, mx3 bounced, mx3 dsn"; got != want {
		t.Errorf("the story is %s, want %s", got, want)
	}
	if m.GetRecipients() != 2 || m.GetSize() != 4711 || m.GetMessageId() != "m@x" || !m.GetArrived().AsTime().Equal(birth.Add(-500*time.Millisecond)) || fmt.Sprint(m.GetRcpts()) != "[a@x b@x]" {
		t.Errorf("the message is %v", m)
	}
	if !ended(m) || outcome(m) != "delivered 1, bounced 1" {
		t.Errorf("ended %v, outcome %s", ended(m), outcome(m))
	}
}

func TestOutcomes(t *testing.T) {
	id := idAt(0)
	accepted := ev(0, "mx1", "accepted", id, "a@x", "b@x")
	accepted.Recipients = 2
	refused := ev(0, "mx1", "rejected", "", "a@x")
	refused.Reply = "550 5.7.1 no"
	queue := &adminv1.Message{Recipients: []*adminv1.MessageRecipient{{State: adminv1.RecipientState_RECIPIENT_STATE_DELIVERED}, {State: adminv1.RecipientState_RECIPIENT_STATE_HELD}}}
	for _, c := range []struct {
		name   string
		events []*adminv1.TraceEvent
		queued *adminv1.Message
		want   string
		ended  bool
	}{
		{"refused", []*adminv1.TraceEvent{refused}, nil, "refused: 550 5.7.1 no", false},
		{"all delivered", []*adminv1.TraceEvent{accepted, ev(1, "mx1", "delivered", id, "a@x"), ev(1, "mx1", "delivered", id, "b@x")}, nil, "delivered 2", true},
		{"one is left", []*adminv1.TraceEvent{accepted, ev(1, "mx1", "delivered", id, "a@x"), ev(1, "mx1", "deferred", id, "b@x")}, nil, "delivered 1, unknown 1", false},
		{"the queue knows", []*adminv1.TraceEvent{accepted, ev(1, "mx1", "delivered", id, "a@x"), ev(1, "mx1", "deferred", id, "b@x")}, queue, "delivered 1, held 1", false},
		{"released", []*adminv1.TraceEvent{ev(1, "mx1", "held", id, "a@x"), ev(2, "mx1", "released", id, "a@x")}, nil, "unknown", false},
		{"expired", []*adminv1.TraceEvent{ev(1, "mx1", "expired", id, "a@x")}, nil, "bounced", true},
		{"dropped", []*adminv1.TraceEvent{ev(1, "mx1", "dropped", id, "a@x")}, nil, "dropped", true},
		{"a report alone", []*adminv1.TraceEvent{{Time: timestamppb.New(birth), Event: "dsn", Id: id, Of: idAt(1)}}, nil, "unknown", false},
	} {
		m := gather(c.events)[0]
		m.Queued = c.queued
		if got := outcome(m); got != c.want || ended(m) != c.ended {
			t.Errorf("%s: %s, ended %v; want %s, %v", c.name, got, ended(m), c.want, c.ended)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"a@b", "A@B", true}, {"a@b", "a@bc", false}, {"*@b", "x@b", true}, {"*@b", "x@c", false}, {"a?c*", "abcdef", true},
		{"*", "", true}, {"", "", true}, {"?", "", false}, {"**a", "bba", true}, {strings.Repeat("*a", 30) + "b", strings.Repeat("a", 5000), false},
	} {
		if got := matches([]string{c.pattern}, c.text); got != c.want {
			t.Errorf("%s on %.20s: %v", c.pattern, c.text, got)
		}
	}
}

// node is one node of an invented cluster.
type node struct {
	sources Sources
	peers   []fleet.Peer
	shown   *adminv1.Message
}

func (n *node) Others(context.Context) []fleet.Peer { return n.peers }
func (n *node) Knows(string) bool                   { return true }

// nodes makes a cluster of nodes that know each other.
func nodes(t *testing.T, names ...string) (out []*node) {
	t.Helper()
	conns := map[string]fleet.Peer{}
	for _, name := range names {
		n := &node{}
		l := tracelog.Open(tracelog.Options{Dir: "trace", FS: vfs.NewMem(), Keep: time.Hour, MaxSize: 1 << 20})
		n.sources = Sources{Log: l, Tap: NewTap(), Node: name}
		out = append(out, n)
		lis := bufconn.Listen(1 << 20)
		srv := grpc.NewServer()
		adminv1.RegisterTraceServiceServer(srv, n.service())
		adminv1.RegisterEventServiceServer(srv, &Events{Sources: n.sources, Fleet: fleet.Fleet{Peers: n}})
		served := make(chan error, 1)
		go func() { served <- srv.Serve(lis) }()
		cc, err := grpc.NewClient("passthrough:///"+name, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cc.Close()
			srv.Stop()
			<-served
			l.Close()
		})
		conns[name] = fleet.Peer{Name: name, Conn: cc}
	}
	for _, n := range out {
		for _, name := range names {
			if name != n.sources.Node {
				n.peers = append(n.peers, conns[name])
			}
		}
	}
	return out
}

func (n *node) service() *Service {
	return &Service{Sources: n.sources, Fleet: fleet.Fleet{Peers: n}, Show: func(context.Context, *adminv1.ShowRequest) (*adminv1.ShowResponse, error) {
		if n.shown == nil {
			return nil, status.Error(codes.NotFound, "gone")
		}
		return &adminv1.ShowResponse{Message: n.shown}, nil
	}}
}

func message(n int) *mail.Envelope {
	return &mail.Envelope{ID: mail.NewID(birth.Add(time.Duration(n) * time.Minute)), From: mail.Address{Local: "s", Domain: "example.edu"}, MessageID: fmt.Sprintf("m%d@x", n),
		Recipients: []mail.Recipient{{Addr: mail.Address{Local: fmt.Sprintf("r%d", n), Domain: "example.org"}}}}
}

func delivered(l *tracelog.Log, env *mail.Envelope) {
	l.Recipient(&tracelog.Fate{Kind: record.Delivered, ID: env.ID, From: env.From, To: env.Recipients[0].Addr, Attempt: 1,
		Outcome: &mail.Outcome{Reply: *mail.NewReply(250, "2.0.0", "queued as Q1")}})
}

// One node has the Message-ID, another the delivery: any tells both.
func TestFindAcrossNodes(t *testing.T) {
	all := nodes(t, "mx1", "mx2", "mx3")
	env := message(0)
	all[0].sources.Log.Accepted(env, 1, 0, 0)
	all[1].sources.Log.TakenOver(env, 1, 0)
	delivered(all[1].sources.Log, env)
	for _, n := range all {
		for _, term := range []string{"<m0@x>", env.ID.String(), "r0@example.org", "Q1"} {
			res, err := n.service().Find(t.Context(), &adminv1.FindRequest{Term: term})
			if err != nil {
				t.Fatal(err)
			}
			if len(res.GetMessages()) != 1 || len(res.GetMessages()[0].GetEvents()) != 3 || res.GetMessages()[0].GetOutcome() != "delivered" || len(res.GetMissingNodes()) != 0 {
				t.Errorf("%s at %s: %v", term, n.sources.Node, res)
			}
		}
	}
}

// Of many messages the newest are listed, and it is said that there are more;
// a node that does not answer is named; what the queue knows is told.
func TestFindManyAndMissing(t *testing.T) {
	all := nodes(t, "mx1", "mx2")
	for i := range 30 {
		all[i%2].sources.Log.Accepted(message(i), 1, 0, 0)
	}
	all[0].shown = &adminv1.Message{Node: "mx2", Recipients: []*adminv1.MessageRecipient{{State: adminv1.RecipientState_RECIPIENT_STATE_DEFERRED}}}
	dead, err := grpc.NewClient("passthrough:///dead", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("dead") }))
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	all[0].sources.All = func(context.Context) []fleet.Peer {
		return append(slices.Clone(all[0].peers), fleet.Peer{Name: "mx3", Conn: dead})
	}
	res, err := all[0].service().Find(t.Context(), &adminv1.FindRequest{Term: "s@example.edu", Limit: 7})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.GetMessages()) != 7 || !res.GetMore() || fmt.Sprint(res.GetMissingNodes()) != "[mx3]" {
		t.Errorf("%d messages, more %v, missing %v", len(res.GetMessages()), res.GetMore(), res.GetMissingNodes())
	}
	for i, m := range res.GetMessages() {
		if want := fmt.Sprintf("m%d@x", 29-i); m.GetMessageId() != want || m.GetOutcome() != "deferred" || m.GetQueued().GetNode() != "mx2" {
			t.Errorf("message %d is %s, %s, want %s", i, m.GetMessageId(), m.GetOutcome(), want)
		}
	}
	for _, req := range []*adminv1.FindRequest{{}, {Term: "<>"}, {Term: "a@b", Limit: -1}, {Term: "a@b", Limit: 1001}} {
		if _, err := all[0].service().Find(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
}

// Whatever came of a message since, how often, and at which node: where it came
// from is known.
func TestOriginBehindManyEvents(t *testing.T) {
	all := nodes(t, "mx1", "mx2")
	now := birth
	l := tracelog.Open(tracelog.Options{Dir: "trace", FS: vfs.NewMem(), Keep: 48 * time.Hour, MaxSize: 64 << 20, Now: func() time.Time { return now }})
	defer l.Close()
	all[0].sources.Log = l
	env := message(0)
	for i := range 20_000 {
		switch {
		case i == 1:
			l.Accepted(env, 1, 0, 0)
		case i%500 == 499: // the log is given the time to write all of it
			if _, err := l.Search(t.Context(), tracelog.Query{IDs: []mail.ID{env.ID}}); err != nil {
				t.Fatal(err)
			}
			now = now.Add(30 * time.Minute)
		}
		l.Returned(&tracelog.Back{Of: env.ID, ID: env.ID, From: env.From, To: env.Recipients[0].Addr, Kind: "unknown"})
	}
	from, rcpts, err := all[0].service().Origin(t.Context(), env.ID)
	if from != "s@example.edu" || fmt.Sprint(rcpts) != "[r0@example.org]" || err != nil {
		t.Errorf("it came from %q, to %q, %v", from, rcpts, err)
	}
	other := message(1)
	all[1].sources.Log.TakenOver(other, 1, 0) // long after its ID was made
	if from, _, err := all[0].service().Origin(t.Context(), other.ID); from != "s@example.edu" || err != nil {
		t.Errorf("the other came from %q, %v", from, err)
	}
}

// A message that no trace is left of is told from the queue.
func TestFindUntraced(t *testing.T) {
	n := nodes(t, "mx1")[0]
	n.shown = &adminv1.Message{Node: "mx1", From: "a@b", Recipients: []*adminv1.MessageRecipient{{Rcpt: "c@d", State: adminv1.RecipientState_RECIPIENT_STATE_ACTIVE}}}
	res, err := n.service().Find(t.Context(), &adminv1.FindRequest{Term: idAt(0)})
	if err != nil || len(res.GetMessages()) != 1 || res.GetMessages()[0].GetOutcome() != "queued" || res.GetMessages()[0].GetRcpts()[0] != "c@d" {
		t.Errorf("%v, %v", res, err)
	}
}

// Events of all nodes come to the one that is asked; filters hold for all.
func TestTailOfAllNodes(t *testing.T) {
	all := nodes(t, "mx1", "mx2", "mx3")
	stream, err := adminv1.NewEventServiceClient(all[1].peers[0].Conn).Tail(t.Context(), &adminv1.TailRequest{
		Types: []string{"accepted"}, Domains: []string{"EXAMPLE.org"}, Rcpt: []string{"r[", "R1?@*"}, Nodes: []string{"mx1", "mx3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := stream.Recv(); err != nil || !v.GetListening() {
		t.Fatalf("the first word is %v, %v", v, err)
	}
	for _, n := range all {
		for i := range 30 {
			n.sources.Log.Accepted(message(i), 1, 0, 0)
			delivered(n.sources.Log, message(i))
		}
	}
	got := map[string]int{}
	for range 20 {
		v, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got[v.GetEvent().GetNode()+" "+v.GetEvent().GetEvent()]++
	}
	if fmt.Sprint(got) != "map[mx1 accepted:10 mx3 accepted:10]" {
		t.Errorf("events %v", got)
	}
	for _, req := range []*adminv1.TailRequest{{Types: []string{"x"}}, {Nodes: []string{"mx9"}}} {
		s, err := adminv1.NewEventServiceClient(all[1].peers[0].Conn).Tail(t.Context(), req)
		if err == nil {
			_, err = s.Recv()
		}
		if c := status.Code(err); c != codes.InvalidArgument && c != codes.NotFound {
			t.Errorf("%v: %v", req, err)
		}
	}
}

// slow is a reader that takes the first word, and then nothing until it is let
// go.
type slow struct {
	grpc.ServerStreamingServer[adminv1.TailResponse]
	ctx   context.Context
	first chan struct{}
	gate  chan struct{}
	got   chan *adminv1.TailResponse
}

func (s *slow) Context() context.Context { return s.ctx }

func (s *slow) Send(v *adminv1.TailResponse) error {
	if v.GetListening() {
		close(s.first)
		return nil
	}
	<-s.gate
	select {
	case s.got <- v:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// A reader that is too slow is told how many events it lost, and no event waits
// for it.
func TestSlowReaderIsTold(t *testing.T) {
	n := nodes(t, "mx1")[0]
	ctx, cancel := context.WithCancel(t.Context())
	s := &slow{ctx: ctx, first: make(chan struct{}), gate: make(chan struct{}), got: make(chan *adminv1.TailResponse)}
	ended := make(chan error, 1)
	go func() {
		ended <- (&Events{Sources: n.sources, Fleet: fleet.Fleet{}}).Tail(&adminv1.TailRequest{Types: []string{"delivered"}}, s)
	}()
	<-s.first
	const many = 5000
	for range many {
		delivered(n.sources.Log, message(0))
	}
	if _, err := n.sources.Log.Search(t.Context(), tracelog.Query{Term: record.ParseTerm("x@y")}); err != nil { // all have been published by then
		t.Fatal(err)
	}
	close(s.gate)
	events, lost := 0, 0
	for events+lost < many {
		v := <-s.got
		if v.GetEvent() != nil {
			events++
		}
		lost += int(v.GetLost().GetCount())
	}
	if events < tailRoom || lost == 0 || events+lost > many {
		t.Errorf("%d events and %d lost of %d", events, lost, many)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
}

// Dialogues of all nodes come to the one that is asked.
func TestListenToAllNodes(t *testing.T) {
	all := nodes(t, "mx1", "mx2")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := adminv1.NewTraceServiceClient(all[0].peers[0].Conn).Listen(ctx, &adminv1.ListenRequest{Client: "192.0.2.7"})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := stream.Recv(); err != nil || !v.GetListening() {
		t.Fatalf("the first word is %v, %v", v, err)
	}
	for _, n := range all {
		s := n.sources.Tap.Server(netip.MustParseAddr("192.0.2.7"))
		s.Command("EHLO x")
		s.Reply("250 ok")
		s.End("quit")
	}
	got := map[string]int{}
	for range 6 {
		v, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		l := v.GetLine()
		got[fmt.Sprintf("%s %s %s %v", l.GetNode(), l.GetWho(), l.GetText(), l.GetEnd())]++
	}
	for _, node := range []string{"mx1", "mx2"} {
		for _, want := range []string{"client EHLO x false", "server 250 ok false", " closed: quit true"} {
			if got[node+" "+want] != 1 {
				t.Errorf("%s: no %q in %v", node, want, got)
			}
		}
	}
	cancel()
	for err == nil {
		_, err = stream.Recv()
	}
	for _, req := range []*adminv1.ListenRequest{{}, {Client: "x"}} {
		s, err := adminv1.NewTraceServiceClient(all[0].peers[0].Conn).Listen(t.Context(), req)
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != codes.InvalidArgument || errors.Is(err, io.EOF) {
			t.Errorf("%v: %v", req, err)
		}
	}
}
