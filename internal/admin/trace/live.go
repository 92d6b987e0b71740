package trace

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/dialogue"
	"github.com/clrelay/clrelay/internal/tracelog"
	"github.com/clrelay/clrelay/internal/tracelog/record"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	tailRoom  = 1024            // events that wait for a reader
	joinWait  = 5 * time.Second // for another node to begin
	lostEvery = time.Second     // a reader is told what it lost
)

// live is one stream to a reader, made of what this node has to say and of the
// streams of others.
type live[T any] struct {
	peers     []fleet.Peer
	begin     func(ctx context.Context, p fleet.Peer) (grpc.ServerStreamingClient[T], error)
	own       func(ctx context.Context, put func(*T) error) error // until ctx ends; nil: this node says nothing
	listening *T
	gone      func(node string) *T
}

// run sends until the reader is gone. A node whose stream ends is named; it is
// not asked again.
func (l *live[T]) run(ctx context.Context, send func(*T) error) error {
	var group, joining sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := make(chan *T, 16)
	put := func(v *T) error {
		select {
		case out <- v:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, p := range l.peers {
		joining.Add(1)
		group.Go(func() { l.join(ctx, p, put, sync.OnceFunc(joining.Done)) })
	}
	ready, failed := make(chan struct{}), make(chan error, 1)
	group.Go(func() {
		joining.Wait()
		close(ready)
	})
	if l.own != nil {
		group.Go(func() { failed <- fleet.Safely(func() error { return l.own(ctx, put) }) })
	}
	for {
		var err error
		select {
		case v := <-out:
			err = send(v)
		case <-ready:
			ready = nil
			err = send(l.listening)
		case err = <-failed:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// join hands on what another node says. Its first word is that it listens.
func (l *live[T]) join(ctx context.Context, p fleet.Peer, put func(*T) error, joined func()) {
	defer joined()
	mine, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(joinWait, cancel)
	defer late.Stop()
	stream, err := l.begin(mine, p)
	for first := true; err == nil; first = false {
		var v *T
		if v, err = stream.Recv(); err != nil {
			break
		}
		if first {
			late.Stop()
			joined()
			continue
		}
		err = put(v)
	}
	_ = put(l.gone(p.Name)) // it fails when nobody reads any more
}

// Events answers EventService.
type Events struct {
	adminv1.UnimplementedEventServiceServer
	Sources
	Fleet fleet.Fleet
}

// Tail gives the events of all nodes as they happen.
func (s *Events) Tail(req *adminv1.TailRequest, stream grpc.ServerStreamingServer[adminv1.TailResponse]) error {
	match, err := matcher(req)
	if err != nil {
		return err
	}
	ctx := stream.Context()
	l := &live[adminv1.TailResponse]{
		listening: &adminv1.TailResponse{Listening: true},
		gone:      func(node string) *adminv1.TailResponse { return &adminv1.TailResponse{MissingNode: node} },
		begin: func(ctx context.Context, p fleet.Peer) (grpc.ServerStreamingClient[adminv1.TailResponse], error) {
			return adminv1.NewEventServiceClient(p.Conn).Tail(ctx, &adminv1.TailRequest{
				Types: req.GetTypes(), Domains: req.GetDomains(), Ids: req.GetIds(), From: req.GetFrom(), Rcpt: req.GetRcpt(), Local: true,
			})
		},
	}
	wanted := func(node string) bool {
		return req.GetLocal() || len(req.GetNodes()) == 0 || slices.Contains(req.GetNodes(), node)
	}
	known := []string{s.Node}
	for _, p := range s.others(ctx, s.Fleet, req.GetLocal()) {
		known = append(known, p.Name)
		if wanted(p.Name) {
			l.peers = append(l.peers, p)
		}
	}
	for _, n := range req.GetNodes() {
		if !slices.Contains(known, n) {
			return status.Errorf(codes.NotFound, "no node %s: there are %s", n, strings.Join(known, ", "))
		}
	}
	if wanted(s.Node) {
		sub := s.Log.Subscribe(tailRoom, match)
		defer sub.Close()
		l.own = func(ctx context.Context, put func(*adminv1.TailResponse) error) error {
			return pump(ctx, sub.C, func(e *tracelog.Event) error {
				return put(&adminv1.TailResponse{Event: eventOut(s.Node, e)})
			}, func() error {
				if n := sub.Lost(); n > 0 {
					return put(&adminv1.TailResponse{Lost: &adminv1.LostEvents{Node: s.Node, Count: n}})
				}
				return nil
			})
		}
	}
	return l.run(ctx, stream.Send)
}

// pump hands on what comes, and looks once in a while what was lost.
func pump[E any](ctx context.Context, c <-chan E, each func(E) error, lost func() error) error {
	t := time.NewTicker(lostEvery)
	defer t.Stop()
	for {
		var err error
		select {
		case e := <-c:
			err = each(e)
		case <-t.C:
			err = lost()
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// matcher makes of a request what tells whether an event is wanted.
func matcher(req *adminv1.TailRequest) (func(*tracelog.Event) bool, error) {
	for _, t := range req.GetTypes() {
		if !slices.Contains(record.Kinds(), t) {
			return nil, status.Errorf(codes.InvalidArgument, "no event is called %q: there are %s", t, strings.Join(record.Kinds(), ", "))
		}
	}
	ids := map[string]bool{}
	for _, id := range req.GetIds() {
		ids[strings.ToUpper(id)] = true
	}
	return func(e *tracelog.Event) bool {
		switch {
		case len(req.GetTypes()) > 0 && !slices.Contains(req.GetTypes(), e.Kind.String()):
			return false
		case len(ids) > 0 && !ids[e.ID.String()] && !(e.Kind == record.Report && ids[e.Of.String()]):
			return false
		case len(req.GetFrom()) > 0 && !matches(req.GetFrom(), e.From):
			return false
		case len(req.GetRcpt()) > 0 && !slices.ContainsFunc(e.To, func(to string) bool { return matches(req.GetRcpt(), to) }):
			return false
		case len(req.GetDomains()) > 0:
			return slices.ContainsFunc(e.To, func(to string) bool {
				domain := to[strings.LastIndexByte(to, '@')+1:]
				return slices.ContainsFunc(req.GetDomains(), func(d string) bool { return strings.EqualFold(d, domain) })
			})
		}
		return true
	}, nil
}

// matches tells whether an address has one of the patterns, in any case.
func matches(patterns []string, address string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return glob(strings.ToLower(p), strings.ToLower(address)) })
}

// glob tells whether text has a pattern, in which * stands for any text and ?
// for any octet. It looks at each octet a few times at most, whatever the
// pattern.
func glob(pattern, text string) bool {
	star, mark := -1, 0
	p, t := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// Listen tells what is said on new connections of all nodes.
func (s *Service) Listen(req *adminv1.ListenRequest, stream grpc.ServerStreamingServer[adminv1.ListenResponse]) error {
	f := dialogue.Filter{Dest: strings.TrimSuffix(req.GetDest(), ".")}
	if req.GetClient() == "" && f.Dest == "" {
		return status.Error(codes.InvalidArgument, "whom to listen to is missing: a client or a destination")
	}
	if req.GetClient() != "" {
		var err error
		if f.Client, err = prefix(req.GetClient()); err != nil {
			return err
		}
	}
	if s.Tap == nil {
		return status.Error(codes.Unimplemented, "nobody can listen on this node")
	}
	w, ok := s.Tap.Follow(f)
	if !ok {
		return status.Error(codes.ResourceExhausted, "too many listen already: end one of them")
	}
	defer w.Close()
	l := &live[adminv1.ListenResponse]{
		peers:     s.others(stream.Context(), s.Fleet, req.GetLocal()),
		listening: &adminv1.ListenResponse{Listening: true},
		gone:      func(node string) *adminv1.ListenResponse { return &adminv1.ListenResponse{MissingNode: node} },
		begin: func(ctx context.Context, p fleet.Peer) (grpc.ServerStreamingClient[adminv1.ListenResponse], error) {
			return adminv1.NewTraceServiceClient(p.Conn).Listen(ctx, &adminv1.ListenRequest{Client: req.GetClient(), Dest: req.GetDest(), Local: true})
		},
		own: func(ctx context.Context, put func(*adminv1.ListenResponse) error) error {
			return pump(ctx, w.C, func(line dialogue.Line) error {
				return put(&adminv1.ListenResponse{Line: s.lineOut(&line)})
			}, func() error {
				if n := w.Lost(); n > 0 {
					return put(&adminv1.ListenResponse{Lost: &adminv1.LostEvents{Node: s.Node, Count: n}})
				}
				return nil
			})
		},
	}
	return l.run(stream.Context(), stream.Send)
}

func (s *Service) lineOut(l *dialogue.Line) *adminv1.DialogueLine {
	out := &adminv1.DialogueLine{
		Time: stamp(l.Time), Node: s.Node, Session: l.Session, Outbound: l.Side == dialogue.Client, Peer: l.Peer,
		Text: l.Text, Since: span(l.Since), End: l.End,
	}
	switch {
	case l.Who == dialogue.Note:
	case (l.Who == dialogue.Us) == out.Outbound:
		out.Who = "client"
	default:
		out.Who = "server"
	}
	return out
}
