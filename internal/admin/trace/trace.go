// Package trace is the part of the operator's API that tells where a message
// is or was: it asks the traces of all nodes and makes one story of each
// message, hands on events as they happen, and lets an operator listen to
// SMTP dialogues.
//
// A message is looked for in two rounds, because one node may know the
// Message-ID and another the delivery: first every node says which messages
// have the term, then what it knows of these.
package trace

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/bounce"
	"github.com/clrelay/clrelay/internal/dialogue"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/tracelog"
	"github.com/clrelay/clrelay/internal/tracelog/record"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Bounds of an answer.
const (
	askWait      = 20 * time.Second // for another node, which may have to read much from its disk
	usualLimit   = 20               // messages
	maxLimit     = 1000
	maxEvents    = 5000     // of one node
	maxAnswer    = 64 << 20 // octets of one node's answer
	maxRcptsSent = 1000     // recipients named in one event
)

// Sources are what this node knows. Log and Tap may be nil.
type Sources struct {
	Log  *tracelog.Log
	Tap  *dialogue.Tap
	Node string // its name
	// All gives all other nodes, those too that are silent and own no mail: they
	// may know something. nil: those of the Fleet.
	All func(context.Context) []fleet.Peer
}

// others gives the nodes to be asked besides this one.
func (s *Sources) others(ctx context.Context, f fleet.Fleet, local bool) []fleet.Peer {
	if local || s.All == nil {
		return f.Others(ctx, local)
	}
	return s.All(ctx)
}

// NewTap gives what connections are to ask.
func NewTap() *dialogue.Tap { return &dialogue.Tap{} }

// Service answers TraceService.
type Service struct {
	adminv1.UnimplementedTraceServiceServer
	Sources
	Fleet fleet.Fleet
	Show  Show
}

// Show tells how a message stands in the queue, on any node.
type Show = func(context.Context, *adminv1.ShowRequest) (*adminv1.ShowResponse, error)

// Register puts both services on a server.
func Register(r grpc.ServiceRegistrar, s Sources, f fleet.Fleet, show Show) {
	adminv1.RegisterTraceServiceServer(r, &Service{Sources: s, Fleet: f, Show: show})
	adminv1.RegisterEventServiceServer(r, &Events{Sources: s, Fleet: f})
}

// Search gives this node's events.
func (s *Service) Search(ctx context.Context, req *adminv1.SearchRequest) (*adminv1.SearchResponse, error) {
	q := tracelog.Query{Term: record.ParseTerm(req.GetTerm()), Since: when(req.GetSince()), Until: when(req.GetUntil()),
		Messages: int(req.GetMessages()), Events: maxEvents}
	if n := int(req.GetEvents()); n > 0 {
		q.Events = min(n, maxEvents)
	}
	for _, text := range req.GetIds() {
		id, err := mail.ParseID(text)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "%q: %v", text, err)
		}
		q.IDs = append(q.IDs, id)
	}
	if q.Term.IsZero() && len(q.IDs) == 0 {
		return nil, status.Error(codes.InvalidArgument, "nothing to look for")
	}
	r, err := s.Log.Search(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &adminv1.SearchResponse{More: r.More, Oldest: stamp(r.Oldest), Lost: r.Lost, LastLost: stamp(r.LastLost), Damaged: r.Damaged}
	for _, e := range r.Events {
		out.Events = append(out.Events, eventOut(s.Node, e))
	}
	return out, nil
}

func when(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func span(d time.Duration) *durationpb.Duration {
	if d <= 0 {
		return nil
	}
	return durationpb.New(d)
}

func eventOut(node string, e *tracelog.Event) *adminv1.TraceEvent {
	out := &adminv1.TraceEvent{
		Time: stamp(e.Time), Node: node, Event: e.Kind.String(), From: e.From, Rcpts: e.To[:min(len(e.To), maxRcptsSent)], Recipients: int64(e.Recipients),
		MessageId: e.MessageID, Size: e.Size, Took: span(e.Took), Copies: e.Copies, Arrived: stamp(e.Arrived),
		Relay: e.Relay, Source: e.Source, Tls: e.TLS, Attempt: int32(e.Attempt), Code: int32(e.Reply.Code), Reason: e.Reason,
		Delay: span(e.Delay), Next: stamp(e.Next), Kind: e.Report,
	}
	if !e.ID.IsZero() {
		out.Id = e.ID.String()
	}
	if !e.Of.IsZero() {
		out.Of = e.Of.String()
	}
	if e.Reply.Code != 0 {
		out.Reply = e.Reply.Line()
	}
	switch e.Kind {
	case record.Deferred, record.Bounced, record.Expired, record.DoubleBounce:
		out.Class = bounce.Of(&e.Reply).Class.String()
	case record.Returned:
		out.Class = e.Class
		if e.Reply.Code == 0 { // of a complaint
			out.Reply = e.Reply.Text
		}
	}
	if c := e.Client; c != (mail.Client{}) {
		out.Client = &adminv1.Client{Helo: c.Helo, Protocol: c.Protocol, Tls: c.TLS, Sender: c.Sender}
		if c.Addr.IsValid() {
			out.Client.Addr = c.Addr.String()
		}
	}
	return out
}

// gathered is what the nodes said in one round.
type gathered struct {
	events  []*adminv1.TraceEvent
	more    bool
	oldest  *timestamppb.Timestamp
	notes   []string
	missing []string
}

// ask asks all nodes.
func (s *Service) ask(ctx context.Context, req *adminv1.SearchRequest) (*gathered, error) {
	g := &gathered{}
	req.Local = true
	var own *adminv1.SearchResponse
	answers, err := fleet.AskWhile(ctx, s.others(ctx, s.Fleet, false), askWait, func(ctx context.Context, p fleet.Peer) (*adminv1.SearchResponse, error) {
		return adminv1.NewTraceServiceClient(p.Conn).Search(ctx, req, grpc.MaxCallRecvMsgSize(maxAnswer))
	}, func(ctx context.Context) (err error) {
		own, err = s.Search(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	g.add(s.Node, own)
	for _, a := range answers {
		if a.Err != nil {
			g.missing = append(g.missing, a.Peer.Name)
			continue
		}
		g.add(a.Peer.Name, a.Got)
	}
	return g, nil
}

func (g *gathered) add(node string, r *adminv1.SearchResponse) {
	g.events = append(g.events, r.GetEvents()...)
	g.more = g.more || r.GetMore()
	if o := r.GetOldest(); o != nil && (g.oldest == nil || o.AsTime().Before(g.oldest.AsTime())) {
		g.oldest = o
	}
	if n := r.GetLost(); n > 0 {
		g.notes = append(g.notes, fmt.Sprintf("%s lost %d events because its disk was too slow or full, the last at %s", node, n, r.GetLastLost().AsTime().Format(time.RFC3339)))
	}
	for _, d := range r.GetDamaged() {
		g.notes = append(g.notes, fmt.Sprintf("%s cannot read a part of its traces: %s", node, d))
	}
}

// Find tells what all nodes know.
func (s *Service) Find(ctx context.Context, req *adminv1.FindRequest) (*adminv1.FindResponse, error) {
	limit := int(req.GetLimit())
	switch {
	case limit < 0 || limit > maxLimit:
		return nil, status.Errorf(codes.InvalidArgument, "limit %d: from 1 to %d", limit, maxLimit)
	case limit == 0:
		limit = usualLimit
	case record.ParseTerm(req.GetTerm()).IsZero():
		return nil, status.Error(codes.InvalidArgument, "nothing to look for: give an ID, a Message-ID or an address")
	}
	first, err := s.ask(ctx, &adminv1.SearchRequest{Term: req.GetTerm(), Since: req.GetSince(), Until: req.GetUntil(), Messages: int32(limit) + 1})
	if err != nil {
		return nil, err
	}
	out := &adminv1.FindResponse{Oldest: first.oldest, Notes: first.notes, MissingNodes: first.missing}
	found := gather(first.events)
	ids := make([]string, 0, limit)
	if len(found) > limit {
		found, out.More = found[:limit], true
	}
	for _, m := range found {
		if m.GetId() != "" {
			ids = append(ids, m.GetId())
		}
	}
	out.Messages = found
	if len(ids) > 0 {
		second, err := s.ask(ctx, &adminv1.SearchRequest{Ids: ids})
		if err != nil {
			return nil, err
		}
		out.Messages = joined(found, second.events)
		out.Notes = append(out.Notes, second.notes...)
		out.MissingNodes = append(out.MissingNodes, second.missing...)
		if second.more {
			out.Notes = append(out.Notes, "there are more events than an answer holds: ask for fewer messages (--limit)")
		}
	}
	s.standing(ctx, out)
	if id, err := mail.ParseID(req.GetTerm()); err == nil && len(out.Messages) == 0 {
		s.untraced(ctx, out, id)
	}
	out.MissingNodes, out.Notes = fleet.Sorted(out.MissingNodes), fleet.Sorted(out.Notes)
	return out, nil
}

// untraced is for a message that no trace is left of and that is still queued.
func (s *Service) untraced(ctx context.Context, out *adminv1.FindResponse, id mail.ID) {
	res, err := s.Show(ctx, &adminv1.ShowRequest{Id: id.String()})
	if err != nil {
		return
	}
	m := &adminv1.TracedMessage{Id: id.String(), Queued: res.GetMessage()}
	q := res.GetMessage()
	m.From, m.Size, m.Arrived, m.Recipients = q.GetFrom(), q.GetSize(), q.GetArrived(), int64(len(q.GetRecipients()))
	for _, r := range q.GetRecipients() {
		m.Rcpts = append(m.Rcpts, r.GetRcpt())
	}
	m.Outcome = outcome(m)
	out.Messages = append(out.Messages, m)
}

// standing tells of messages that have not come to their end how they stand in
// the queue, and of all what became of them.
func (s *Service) standing(ctx context.Context, out *adminv1.FindResponse) {
	for _, m := range out.Messages {
		if m.GetId() != "" && !ended(m) && ctx.Err() == nil {
			res, err := s.Show(ctx, &adminv1.ShowRequest{Id: m.GetId()})
			switch {
			case err == nil:
				m.Queued = res.GetMessage()
			case status.Code(err) == codes.Unavailable:
				out.Notes = append(out.Notes, "not every node said whether it has a message in its queue")
			}
		}
		m.Outcome = outcome(m)
	}
}

// gather makes messages of events, the newest first; each refusal is one.
func gather(events []*adminv1.TraceEvent) []*adminv1.TracedMessage {
	byID := map[string]*adminv1.TracedMessage{}
	var out []*adminv1.TracedMessage
	for _, e := range events {
		m := byID[e.GetId()]
		if m == nil || e.GetId() == "" {
			m = &adminv1.TracedMessage{Id: e.GetId()}
			byID[e.GetId()] = m
			out = append(out, m)
		}
		m.Events = append(m.Events, e)
	}
	for _, m := range out {
		settle(m)
	}
	slices.SortStableFunc(out, func(a, b *adminv1.TracedMessage) int { return newest(b).Compare(newest(a)) })
	return out
}

// newest is when a message was accepted, or else seen last.
func newest(m *adminv1.TracedMessage) time.Time {
	if id, err := mail.ParseID(m.GetId()); err == nil {
		return id.Time()
	}
	return m.GetEvents()[len(m.GetEvents())-1].GetTime().AsTime()
}

// joined gives the messages of found all their events. A report belongs to the
// message that it is about as well.
func joined(found []*adminv1.TracedMessage, events []*adminv1.TraceEvent) []*adminv1.TracedMessage {
	byID := map[string]*adminv1.TracedMessage{}
	for _, m := range found {
		if m.GetId() != "" {
			m.Events = nil
			byID[m.GetId()] = m
		}
	}
	for _, e := range events {
		if m := byID[e.GetId()]; m != nil {
			m.Events = append(m.Events, e)
		}
		if m := byID[e.GetOf()]; m != nil && e.GetOf() != e.GetId() {
			m.Events = append(m.Events, e)
		}
	}
	for _, m := range found {
		settle(m)
	}
	return slices.DeleteFunc(found, func(m *adminv1.TracedMessage) bool { return len(m.GetEvents()) == 0 })
}

// settle puts the events of a message in order, leaves out what came twice, and
// draws from them what is known of the message itself.
func settle(m *adminv1.TracedMessage) {
	slices.SortStableFunc(m.Events, func(a, b *adminv1.TraceEvent) int { return a.GetTime().AsTime().Compare(b.GetTime().AsTime()) })
	m.Events = slices.CompactFunc(m.Events, func(a, b *adminv1.TraceEvent) bool { return proto.Equal(a, b) })
	seen := map[string]bool{}
	m.Arrived = nil
	var rcpts []string
	for _, e := range m.Events {
		if e.GetEvent() == record.Report.String() && e.GetId() != m.GetId() {
			continue // another message
		}
		if m.From == "" {
			m.From = e.GetFrom()
		}
		for _, r := range e.GetRcpts() {
			if !seen[r] {
				seen[r] = true
				rcpts = append(rcpts, r)
			}
		}
		switch e.GetEvent() {
		case record.Accepted.String(), record.TakenOver.String():
			m.MessageId, m.Size, m.Recipients = e.GetMessageId(), e.GetSize(), e.GetRecipients()
			if m.Arrived == nil && e.GetArrived() != nil {
				m.Arrived = e.GetArrived()
			} else if m.Arrived == nil {
				m.Arrived = stamp(e.GetTime().AsTime().Add(-e.GetTook().AsDuration()))
			}
		case record.Rejected.String():
			m.Arrived = e.GetTime()
		}
	}
	m.Rcpts = rcpts
	m.Recipients = max(m.Recipients, int64(len(rcpts)))
	if m.Arrived == nil && len(m.Events) > 0 {
		if id, err := mail.ParseID(m.GetId()); err == nil {
			m.Arrived = stamp(id.Time())
		}
	}
}

// fates gives the last word about each recipient, "" while there is none.
func fates(m *adminv1.TracedMessage) map[string]string {
	out := map[string]string{}
	for _, r := range m.GetRcpts() {
		out[r] = ""
	}
	for _, e := range m.GetEvents() {
		switch e.GetEvent() {
		case "delivered", "bounced", "expired", "dropped", "deferred", "held":
			for _, r := range e.GetRcpts() {
				out[r] = e.GetEvent()
			}
		case "released":
			for _, r := range e.GetRcpts() {
				out[r] = ""
			}
		}
	}
	return out
}

// ended tells whether nothing more will happen to a message.
func ended(m *adminv1.TracedMessage) bool {
	n := 0
	for _, fate := range fates(m) {
		switch fate {
		case "delivered", "bounced", "expired", "dropped":
			n++
		default:
			return false
		}
	}
	return n > 0 && int64(n) >= m.GetRecipients()
}

// outcome says in a few words what became of a message.
func outcome(m *adminv1.TracedMessage) string {
	if m.GetId() == "" {
		for _, e := range m.GetEvents() {
			return strings.TrimSpace("refused: " + e.GetReply())
		}
	}
	counts := map[string]int{}
	if q := m.GetQueued(); q != nil {
		for _, r := range q.GetRecipients() {
			word := strings.ToLower(strings.TrimPrefix(r.GetState().String(), "RECIPIENT_STATE_"))
			if word == "active" {
				word = "queued"
			}
			if word == "failed" {
				word = "bounced"
			}
			counts[word]++
		}
	} else {
		all := fates(m)
		for _, fate := range all {
			switch fate {
			case "", "deferred", "held":
				fate = "unknown" // no longer queued, or nobody says so
			case "expired":
				fate = "bounced"
			}
			counts[fate]++
		}
		if more := int(m.GetRecipients()) - len(all); more > 0 {
			counts["unknown"] += more
		}
	}
	var out []string
	for _, word := range []string{"delivered", "bounced", "dropped", "held", "deferred", "queued", "unknown"} {
		switch n := counts[word]; {
		case n == 0:
		case len(counts) == 1 && n == 1:
			out = append(out, word)
		default:
			out = append(out, fmt.Sprintf("%s %d", word, n))
		}
	}
	if len(out) == 0 {
		return "unknown"
	}
	return strings.Join(out, ", ")
}

// prefix reads a network or an address.
func prefix(text string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, status.Errorf(codes.InvalidArgument, "%q is neither an address nor a network such as 10.0.0.0/8", text)
	}
	return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
}
