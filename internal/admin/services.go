package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/delivery/route"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/admin/lists"
	"github.com/clrelay/clrelay/internal/bounce"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/picks"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	// listBatch is how many entries travel together.
	listBatch = 256
	// askWait is how long another node may take for an answer, or for the next
	// piece of a list.
	askWait = 5 * time.Second
	// countWait is how long it may take to count all of its queue, which it may
	// have to read from disk.
	countWait = 20 * time.Second
	// changeWait is how long it may take to change its part of the queue.
	changeWait = 2 * time.Minute
)

// changeRequest is every request of a verb that changes the queue.
type changeRequest interface{ GetChange() *adminv1.Change }

type queueService struct {
	adminv1.UnimplementedQueueServiceServer
	queue    Queue
	messages Messages
	now      func() time.Time
	fleet    fleet.Fleet
	node     Node
	level    func() uint32 // nil: there are no other nodes
	site     func(lane string) string
}

func (q *queueService) Summary(ctx context.Context, req *adminv1.SummaryRequest) (*adminv1.SummaryResponse, error) {
	s, err := q.queue.Summary(ctx)
	if err != nil {
		return nil, err
	}
	out := &adminv1.SummaryResponse{
		Messages: s.Messages, Recipients: s.Active + s.Deferred + s.Held,
		Active: s.Active, Deferred: s.Deferred, Held: s.Held, Trashed: s.Trashed,
	}
	if !s.Oldest.IsZero() {
		out.Oldest = durationpb.New(max(0, q.now().Sub(s.Oldest)))
	}
	for _, a := range fleet.Ask(ctx, q.fleet.Others(ctx, req.GetLocal()), askWait, summaryOf) {
		if a.Err != nil {
			out.MissingNodes = append(out.MissingNodes, a.Peer.Name)
			continue
		}
		addSummary(out, a.Got)
	}
	return out, nil
}

// addSummary adds what another node has.
func addSummary(to, more *adminv1.SummaryResponse) {
	to.Messages += more.GetMessages()
	to.Recipients += more.GetRecipients()
	to.Active += more.GetActive()
	to.Deferred += more.GetDeferred()
	to.Held += more.GetHeld()
	to.Trashed += more.GetTrashed()
	if d := more.GetOldest(); d != nil && (to.GetOldest() == nil || d.AsDuration() > to.GetOldest().AsDuration()) {
		to.Oldest = d
	}
}

// errLimit ends a list that is long enough.
var errLimit = errors.New("admin: limit reached")

func (q *queueService) List(req *adminv1.ListRequest, stream adminv1.QueueService_ListServer) error {
	sel, peers, err := q.pick(stream.Context(), req.GetSelector(), req.GetLocal())
	if err != nil {
		return err
	}
	if len(peers) > 0 {
		return q.listAll(req, sel, peers, stream)
	}
	var (
		batch []*adminv1.QueueEntry
		sent  int64
	)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := stream.Send(&adminv1.ListResponse{Entries: batch})
		batch = nil
		return err
	}
	err = q.queue.List(stream.Context(), sel, func(e *Entry) error {
		batch = append(batch, entryOut(e))
		if sent++; sent == req.GetLimit() {
			return errLimit
		}
		if len(batch) < listBatch {
			return nil
		}
		return flush()
	})
	if err != nil && !errors.Is(err, errLimit) {
		return err
	}
	return flush()
}

// pick reads a selector and gives the other nodes that are to be asked. It
// sees that every message and node that the selector names is there. A request
// of another node, which is local, may name messages that are elsewhere.
func (q *queueService) pick(ctx context.Context, in *adminv1.Selector, local bool) (*Selector, []Peer, error) {
	sel, err := NewSelector(in)
	if err != nil || local {
		return sel, nil, err
	}
	peers := q.fleet.Others(ctx, false)
	if picks.IsNew(in) {
		if err := q.needsLevel("this selector"); err != nil {
			return nil, nil, err
		}
	}
	if peers, err = q.named(ctx, sel, peers); err != nil {
		return nil, nil, err
	}
	sel, err = q.known(ctx, sel, peers)
	return sel, peers, err
}

// needsLevel refuses what an older node of the cluster would overlook.
func (q *queueService) needsLevel(what string) error {
	if q.level == nil {
		return nil
	}
	if l := q.level(); l < fsm.OperatorLevel {
		return RefusedError(fmt.Sprintf("%s needs feature level %d and the cluster is at %d: it works once all nodes are upgraded", what, fsm.OperatorLevel, l))
	}
	return nil
}

// named leaves those peers that a selector names, if it names nodes.
func (q *queueService) named(ctx context.Context, sel *Selector, peers []Peer) ([]Peer, error) {
	if len(sel.Nodes) == 0 {
		return peers, nil
	}
	var out []Peer
	for _, name := range sel.Nodes {
		i := slices.IndexFunc(peers, func(p Peer) bool { return p.Name == name })
		switch {
		case i >= 0:
			out = append(out, peers[i])
		case name != q.node.Status(ctx).Node:
			return nil, InvalidError(fmt.Sprintf("there is no node %q in service", name))
		}
	}
	return out, nil
}

// known sees that every message that a selector names is there, at this node or
// one of peers.
func (q *queueService) known(ctx context.Context, sel *Selector, peers []Peer) (*Selector, error) {
	var unknown []string
	for _, id := range sel.IDs {
		switch _, err := q.messages.Show(ctx, id); {
		case err == nil:
		case !errors.Is(err, ErrNotFound) || len(peers) == 0:
			return nil, err
		default:
			unknown = append(unknown, id.String())
		}
	}
	if len(unknown) == 0 {
		return sel, nil
	}
	have, missing := lists.Found(ctx, peers, unknown, q.needsLevel("") == nil)
	for _, id := range unknown {
		if !have[id] {
			return nil, nowhere(missing)
		}
	}
	return sel, nil
}

// nowhere is the error of a message that no node knows, of those that answer.
func nowhere(missing []string) error {
	if len(missing) == 0 {
		return ErrNotFound
	}
	return fmt.Errorf("%w: no such message in the queue of the nodes that answer; %s did not", ErrUnavailable, strings.Join(missing, ", "))
}

func (q *queueService) change(ctx context.Context, action Action, how how, in *adminv1.Change) (*adminv1.ChangeResult, error) {
	sel, peers, err := q.pick(ctx, in.GetSelector(), in.GetLocal())
	if err != nil {
		return nil, err
	}
	if !sel.Given() {
		return nil, InvalidError("a selector is needed; everything stands for the whole queue")
	}
	trash := slices.Contains(sel.States, mail.StateTrashed)
	switch {
	case action == Undrop && len(sel.States) == 0:
		sel.States = []mail.State{mail.StateTrashed}
	case action == Undrop && (!trash || len(sel.States) > 1):
		return nil, InvalidError("what is dropped is in the state trash alone")
	case action != Undrop && trash && !(action == Drop && how.now):
		return nil, InvalidError(fmt.Sprintf("what is in the trash can be brought back or dropped now; it cannot be changed by %s", action))
	}
	c := &changing{q: q, action: action, how: how, in: in, sel: sel}
	return c.run(ctx, peers)
}

func (q *queueService) Retry(ctx context.Context, req *adminv1.RetryRequest) (*adminv1.RetryResponse, error) {
	res, err := q.change(ctx, Retry, how{}, req.GetChange())
	return &adminv1.RetryResponse{Result: res}, err
}

func (q *queueService) Hold(ctx context.Context, req *adminv1.HoldRequest) (*adminv1.HoldResponse, error) {
	res, err := q.change(ctx, Hold, how{}, req.GetChange())
	return &adminv1.HoldResponse{Result: res}, err
}

func (q *queueService) Release(ctx context.Context, req *adminv1.ReleaseRequest) (*adminv1.ReleaseResponse, error) {
	res, err := q.change(ctx, Release, how{}, req.GetChange())
	return &adminv1.ReleaseResponse{Result: res}, err
}

func (q *queueService) Drop(ctx context.Context, req *adminv1.DropRequest) (*adminv1.DropResponse, error) {
	res, err := q.change(ctx, Drop, how{now: req.GetNow()}, req.GetChange())
	return &adminv1.DropResponse{Result: res}, err
}

func (q *queueService) Bounce(ctx context.Context, req *adminv1.BounceRequest) (*adminv1.BounceResponse, error) {
	res, err := q.change(ctx, Bounce, how{}, req.GetChange())
	return &adminv1.BounceResponse{Result: res}, err
}

func (q *queueService) Undrop(ctx context.Context, req *adminv1.UndropRequest) (*adminv1.UndropResponse, error) {
	err := q.needsLevel("the trash")
	if err != nil {
		return nil, err
	}
	res, err := q.change(ctx, Undrop, how{}, req.GetChange())
	return &adminv1.UndropResponse{Result: res}, err
}

func (q *queueService) Reroute(ctx context.Context, req *adminv1.RerouteRequest) (*adminv1.RerouteResponse, error) {
	err := q.needsLevel("rerouting")
	if err != nil {
		return nil, err
	}
	if to := req.GetTo(); to != "" && to != route.ToMX {
		if _, _, err := route.ParseHost(to); err != nil {
			return nil, InvalidError("to: " + err.Error())
		}
	}
	res, err := q.change(ctx, Reroute, how{to: req.GetTo()}, req.GetChange())
	return &adminv1.RerouteResponse{Result: res}, err
}

func (q *queueService) Expire(ctx context.Context, req *adminv1.ExpireRequest) (*adminv1.ExpireResponse, error) {
	err := q.needsLevel("another time to give up at")
	if err != nil {
		return nil, err
	}
	if req.GetAt() == nil {
		return nil, InvalidError("at is missing: when are they to be given up?")
	}
	res, err := q.change(ctx, Expire, how{at: req.GetAt()}, req.GetChange())
	return &adminv1.ExpireResponse{Result: res}, err
}

type messageService struct {
	adminv1.UnimplementedMessageServiceServer
	messages Messages
	fleet    fleet.Fleet
}

func (m *messageService) Show(ctx context.Context, req *adminv1.ShowRequest) (*adminv1.ShowResponse, error) {
	sel, err := NewSelector(&adminv1.Selector{Ids: []string{req.GetId()}})
	if err != nil {
		return nil, err
	}
	msg, err := m.messages.Show(ctx, sel.IDs[0])
	if err == nil {
		return &adminv1.ShowResponse{Message: messageOut(msg)}, nil
	}
	peers := m.fleet.Others(ctx, req.GetLocal())
	if !errors.Is(err, ErrNotFound) || len(peers) == 0 {
		return nil, err
	}
	var missing []string
	for _, a := range fleet.Ask(ctx, peers, askWait, func(ctx context.Context, p Peer) (*adminv1.ShowResponse, error) {
		return adminv1.NewMessageServiceClient(p.Conn).Show(ctx, &adminv1.ShowRequest{Id: req.GetId(), Local: true})
	}) {
		switch {
		case a.Err == nil:
			return a.Got, nil
		case status.Code(a.Err) != codes.NotFound:
			missing = append(missing, a.Peer.Name)
		}
	}
	return nil, nowhere(fleet.Sorted(missing))
}

// text makes a string of foreign origin fit for protobuf, which refuses what
// is not UTF-8.
func text(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func timeOut(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func replyOut(r *mail.Reply) string {
	if r.Code == 0 {
		return text(r.Text)
	}
	return text(r.Line())
}

func stateOut(s mail.State) adminv1.RecipientState {
	switch s {
	case mail.StateActive:
		return adminv1.RecipientState_RECIPIENT_STATE_ACTIVE
	case mail.StateDeferred:
		return adminv1.RecipientState_RECIPIENT_STATE_DEFERRED
	case mail.StateHeld:
		return adminv1.RecipientState_RECIPIENT_STATE_HELD
	case mail.StateDelivered:
		return adminv1.RecipientState_RECIPIENT_STATE_DELIVERED
	case mail.StateFailed:
		return adminv1.RecipientState_RECIPIENT_STATE_FAILED
	case mail.StateDropped:
		return adminv1.RecipientState_RECIPIENT_STATE_DROPPED
	case mail.StateTrashed:
		return adminv1.RecipientState_RECIPIENT_STATE_TRASH
	}
	return adminv1.RecipientState_RECIPIENT_STATE_UNSPECIFIED
}

func entryOut(e *Entry) *adminv1.QueueEntry {
	return &adminv1.QueueEntry{
		Id: e.ID.String(), Node: e.Node, From: text(e.From.String()), Rcpt: text(e.To.String()),
		Domain: text(strings.ToLower(e.To.Domain)), State: stateOut(e.State), Size: e.Size, Arrived: timeOut(e.Arrived),
		Attempts: e.Attempts, NextAttempt: timeOut(e.Next), LastReply: replyOut(&e.LastReply), Class: bounce.Of(&e.LastReply).Class.String(),
		Sender: text(e.Client.Sender), Client: clientAddr(&e.Client), Route: text(e.Lane), Rerouted: text(e.Route), Rule: text(e.Rule), Expires: timeOut(e.Expires),
	}
}

func clientAddr(c *mail.Client) string {
	if !c.Addr.IsValid() {
		return ""
	}
	return c.Addr.Unmap().String()
}

func messageOut(m *Message) *adminv1.Message {
	env := m.Envelope
	out := &adminv1.Message{
		Id: env.ID.String(), Node: m.Node, From: text(env.From.String()), Size: m.Size, Arrived: timeOut(env.Arrived),
		Body: env.Body.String(), Smtputf8: env.SMTPUTF8, RequireTls: env.RequireTLS, Ret: env.Ret.String(), EnvId: text(env.EnvID),
		Client: &adminv1.Client{Helo: text(env.Client.Helo), Protocol: text(env.Client.Protocol), Tls: text(env.Client.TLS), Sender: text(env.Client.Sender)},
	}
	out.HoldUntil, out.DeliverBy, out.GiveUp = timeOut(env.Hold), timeOut(env.By.At), env.By.Return
	out.Client.Addr = clientAddr(&env.Client)
	for i, r := range m.Recipients {
		rcpt := &env.Recipients[i]
		one := &adminv1.MessageRecipient{
			Rcpt: text(rcpt.Addr.String()), Domain: text(strings.ToLower(rcpt.Addr.Domain)), State: stateOut(r.State),
			Attempts: r.Attempts, NextAttempt: timeOut(r.Next), LastAttempt: timeOut(r.Last),
			LastReply: replyOut(&r.LastReply), Remote: text(r.Remote), Orcpt: text(rcpt.ORcpt), Notify: rcpt.Notify.String(),
		}
		out.Recipients = append(out.Recipients, one)
	}
	return out
}
