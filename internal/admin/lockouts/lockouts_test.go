package lockouts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/clrelay/clrelay/internal/abuse"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// node is one with a table of its own, that does not move in time.
type node struct {
	*Service
	table *abuse.Table
	log   bytes.Buffer
}

func newNode(name string) *node {
	n := &node{table: abuse.New(func() time.Duration { return time.Minute }, 0)}
	n.table.Configure(abuse.Rules{Window: time.Hour, Most: [abuse.Kinds]int{abuse.Refused: 10, abuse.Unknown: 2}, Hold: time.Second, Lockout: 10 * time.Minute})
	n.Service = &Service{
		Node: name, Table: n.table, Trusted: func(netip.Addr) bool { return false },
		Now: func() time.Time { return time.Unix(1000, 0) }, Log: slog.New(slog.NewTextHandler(&n.log, nil)),
	}
	return n
}

func (n *node) does(client string, k abuse.Kind, times int) {
	for range times {
		n.table.Count(netip.MustParseAddr(client), k)
	}
}

// peers are other nodes, some of which say nothing.
type peers []fleet.Peer

func (p peers) Others(context.Context) []fleet.Peer { return p }
func (peers) Knows(string) bool                     { return true }

// link leads to another node, or to none.
type link struct{ to *node }

func (l link) Invoke(ctx context.Context, _ string, args, reply any, _ ...grpc.CallOption) error {
	var res proto.Message
	err := errors.New("nobody is there")
	if l.to != nil {
		switch req := args.(type) {
		case *adminv1.ListLockoutsRequest:
			res, err = l.to.ListLockouts(ctx, req)
		case *adminv1.LiftLockoutsRequest:
			res, err = l.to.LiftLockouts(ctx, req)
		}
	}
	if err == nil {
		proto.Merge(reply.(proto.Message), res)
	}
	return err
}

func (link) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("no streams")
}

// cluster is mx1, which knows mx2 and, silent, mx3.
func cluster() (mx1, mx2 *node) {
	mx1, mx2 = newNode("mx1"), newNode("mx2")
	mx1.Fleet.Peers = peers{{Name: "mx3", Conn: link{}}, {Name: "mx2", Conn: link{mx2}}}
	return mx1, mx2
}

func said(list []*adminv1.LockoutAtNode) (out []string) {
	for _, n := range list {
		out = append(out, strings.TrimSpace(fmt.Sprint(n.GetNode(), " ", n.GetState())))
	}
	return out
}

func TestListOfAllNodes(t *testing.T) {
	mx1, mx2 := cluster()
	mx1.does("192.0.2.1", abuse.Unknown, 3)
	mx2.does("192.0.2.1", abuse.Unknown, 6)
	mx2.does("2001:db8::1", abuse.Refused, 9)
	mx1.does("192.0.2.2", abuse.Unknown, 4)
	mx2.does("192.0.2.2", abuse.Unknown, 2)
	list := func(req *adminv1.ListLockoutsRequest) (out []string, more bool) {
		t.Helper()
		res, err := mx1.ListLockouts(t.Context(), req)
		if err != nil || (!req.GetLocal() && !slices.Equal(res.GetMissingNodes(), []string{"mx3"})) {
			t.Fatalf("%v, %v", res, err)
		}
		for _, c := range res.GetClients() {
			text := fmt.Sprint(c.GetNetwork(), " ", c.GetState(), ", ", c.GetWhy(), ":")
			for _, s := range c.GetScores() {
				text += fmt.Sprintf(" %s %.0f/%d", s.GetKind(), s.GetScore(), s.GetThreshold())
			}
			out = append(out, text+fmt.Sprint(" ", said(c.GetNodes())))
		}
		return out, res.GetMore()
	}
	want := []string{
		"192.0.2.1 locked out, unknown recipients: refused commands 0/10 unknown recipients 3/2 [mx1 kept waiting mx2 locked out]",
		"192.0.2.2 kept waiting, unknown recipients: refused commands 0/10 unknown recipients 4/2 [mx1 kept waiting mx2 kept waiting]",
		"2001:db8::/64 counted, refused commands: refused commands 9/10 unknown recipients 0/2 [mx2 counted]",
	}
	if got, more := list(&adminv1.ListLockoutsRequest{All: true}); !slices.Equal(got, want) || more {
		t.Errorf("all: %q, more %v", got, more)
	}
	if got, more := list(&adminv1.ListLockoutsRequest{All: true, Limit: 2}); !slices.Equal(got, want[:2]) || !more {
		t.Errorf("the worst 2: %q, more %v", got, more)
	}
	for _, within := range []string{"2001:db8::1", "2001:db8::/32", "2001:db8::/64"} {
		if got, _ := list(&adminv1.ListLockoutsRequest{All: true, Within: []string{within, "10.0.0.0/8"}}); !slices.Equal(got, want[2:]) {
			t.Errorf("within %s: %q", within, got)
		}
	}
	if got, _ := list(&adminv1.ListLockoutsRequest{All: true, Local: true}); len(got) != 2 {
		t.Errorf("mx1 alone: %q", got)
	}
	res, err := mx1.ListLockouts(t.Context(), &adminv1.ListLockoutsRequest{})
	if err != nil || len(res.GetClients()) != 1 || !res.GetClients()[0].GetUntil().AsTime().Equal(time.Unix(1600, 0)) || len(res.GetClients()[0].GetNodes()) != 1 {
		t.Errorf("locked out: %v, %v", res, err)
	}
	mx2.Trusted = func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.1") }
	if got, _ := list(&adminv1.ListLockoutsRequest{}); len(got) != 0 {
		t.Errorf("who is let in all the same: %q", got)
	}
	for text, req := range map[string]*adminv1.ListLockoutsRequest{
		"no address and no network": {Within: []string{"mail.example"}}, "from 1 to 1000": {Limit: 1001}, "a limit of -1": {Limit: -1},
		"101 networks": {Within: make([]string, 101)},
	} {
		if _, err := mx1.ListLockouts(t.Context(), req); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: %v", req, err)
		}
	}
}

func TestLiftAtAllNodes(t *testing.T) {
	mx1, mx2 := cluster()
	mx1.does("2001:db8::1", abuse.Unknown, 6)
	mx2.does("2001:db8::1", abuse.Unknown, 2)
	res, err := mx1.LiftLockouts(t.Context(), &adminv1.LiftLockoutsRequest{Clients: []string{"192.0.2.1", "2001:db8::7", "2001:db8::/64"}, Reason: "INC-1"})
	if err != nil || !slices.Equal(res.GetMissingNodes(), []string{"mx3"}) || len(res.GetClients()) != 2 {
		t.Fatalf("%v, %v", res, err)
	}
	if c := res.GetClients()[0]; c.GetNetwork() != "192.0.2.1" || !slices.Equal(said(c.GetNodes()), []string{"mx1", "mx2"}) {
		t.Errorf("who was not locked out: %v", c)
	}
	c := res.GetClients()[1]
	if c.GetNetwork() != "2001:db8::/64" || !slices.Equal(said(c.GetNodes()), []string{"mx1 locked out", "mx2 kept waiting"}) || c.GetNodes()[0].GetUntil() == nil || c.GetNodes()[1].GetWhy() != "unknown recipients" {
		t.Errorf("who was: %v", c)
	}
	for _, n := range []*node{mx1, mx2} {
		if v := n.table.Look(netip.MustParseAddr("2001:db8::1")); v != (abuse.Verdict{}) || len(n.table.Deltas(nil, 9)) != 0 {
			t.Errorf("at %s there is left: %+v", n.Node, v)
		}
		if log := n.log.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "client=2001:db8::/64") || !strings.Contains(log, "reason=INC-1") {
			t.Errorf("the log of %s: %s", n.Node, log)
		}
	}
	for text, req := range map[string]*adminv1.LiftLockoutsRequest{
		"which client": {Reason: "x"}, "101 clients": {Clients: make([]string, 101), Reason: "x"}, "a reason is missing": {Clients: []string{"192.0.2.1"}, Reason: " "},
		"more than 500": {Clients: []string{"192.0.2.1"}, Reason: strings.Repeat("x", 501)}, "counted by address": {Clients: []string{"192.0.2.0/24"}, Reason: "x"},
	} {
		if _, err := mx1.LiftLockouts(t.Context(), req); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: %v", req, err)
		}
	}
}
