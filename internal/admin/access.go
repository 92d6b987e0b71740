package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/clrelay/clrelay/internal/admin/audit"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/admin/mask"
	"github.com/clrelay/clrelay/internal/admin/methods"
	"github.com/clrelay/clrelay/internal/admin/rules"
	"github.com/clrelay/clrelay/internal/admin/who"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/internal/roles"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// gate stands before every method.
type gate struct {
	log      *slog.Logger
	metrics  *metrics.Node
	peers    Peers           // nil: there are no other nodes
	audit    *audit.Recorder // nil: nothing is written down
	bindings who.Bindings
}

// isOurs tells our methods from those that others put on the same gRPC
// server: these guard themselves.
func isOurs(method string) bool {
	return strings.HasPrefix(method, "/admin.") || strings.HasPrefix(method, "/grpc.")
}

// shared guards our methods on a server that has others, too.
func (g *gate) sharedUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if !isOurs(info.FullMethod) {
		return next(ctx, req)
	}
	return g.unary(ctx, req, info, next)
}

func (g *gate) sharedStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if !isOurs(info.FullMethod) {
		return next(srv, ss)
	}
	return g.stream(srv, ss, info, next)
}

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	c := &call{ctx: ctx, method: info.FullMethod, who: g.bindings.Of(ctx), req: req}
	err := g.pass(c, func() error {
		if err := g.admit(c); err != nil {
			return err
		}
		resp, err := next(ctx, req)
		c.answer = resp
		return err
	})
	return g.shown(c, c.answer), err
}

// shown is what of an answer the caller may see.
func (g *gate) shown(c *call, answer any) any {
	if m, ok := answer.(proto.Message); ok && c.who.Masked() {
		return mask.Message(m)
	}
	return answer
}

func (g *gate) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	c := &call{ctx: ss.Context(), method: info.FullMethod, who: g.bindings.Of(ss.Context())}
	return g.pass(c, func() error { return next(srv, &guarded{ss, g, c}) })
}

// guarded looks at the requests of a stream before the method sees them, and
// at the answers before the caller does.
type guarded struct {
	grpc.ServerStream
	gate *gate
	call *call
}

// RecvMsg receives a request that may be made.
func (s *guarded) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	s.call.req = m
	return s.gate.admit(s.call)
}

// SendMsg sends what the caller may see of an answer.
func (s *guarded) SendMsg(m any) error { return s.ServerStream.SendMsg(s.gate.shown(s.call, m)) }

// call is a call of a method.
type call struct {
	ctx    context.Context
	method string
	who    who.Caller
	req    any // nil until it is there
	answer any // nil until it is there, and of a stream
	open   *audit.Open
	noted  bool // it is in the audit log, or need not be
}

// errNotLocal is what a node hears that asks for more than it may.
var errNotLocal = status.Error(codes.PermissionDenied, "a node may ask for another one's own share alone")

// admit looks at a request of a caller who may call the method.
func (g *gate) admit(c *call) error {
	if _, local := methods.OpenToNodes(c.method); local && !c.who.Operator && !isLocal(c.req) {
		g.log.Warn("admin call denied", "method", c.method, "peer", c.who.Text)
		return errNotLocal
	}
	access := methods.AccessTo(c.method)
	if r, ok := c.req.(interface{ GetReason() string }); access == roles.Content && c.who.Operator && (!ok || strings.TrimSpace(r.GetReason()) == "") {
		return status.Error(codes.InvalidArgument, "who reads what is written in messages says why: a reason is missing")
	}
	if c.noted || g.audit == nil || !access.Audited() || !c.who.Operator || isDry(c.req) {
		return nil // what nodes ask of each other is in the log of the one that was asked first
	}
	var err error
	c.open, err = g.audit.Begin(c.ctx, audit.Call{Method: c.method, Who: c.who.Text, Role: c.who.Role(), Request: c.req})
	c.noted = err == nil
	return err
}

// isDry tells whether a request is to change nothing.
func isDry(req any) bool {
	if c, ok := req.(changeRequest); ok {
		return c.GetChange().GetDryRun()
	}
	d, ok := req.(interface{ GetDryRun() bool })
	return ok && d.GetDryRun()
}

// isLocal tells whether a request is for the node that is asked alone.
func isLocal(req any) bool {
	if c, ok := req.(changeRequest); ok {
		return c.GetChange().GetLocal()
	}
	l, ok := req.(interface{ GetLocal() bool })
	return ok && l.GetLocal()
}

// may tells whether somebody may call a method at all.
func (g *gate) may(method string, c who.Caller) bool {
	if c.Operator {
		return c.Grant.May(methods.AccessTo(method))
	}
	open, _ := methods.OpenToNodes(method)
	return c.Node != "" && open && g.peers != nil && g.peers.Knows(c.Node)
}

// pass lets a call through, counts it and logs what changes something. The
// error it returns is the one that travels.
func (g *gate) pass(c *call, run func() error) error {
	access := methods.AccessTo(c.method)
	if access == roles.Denied {
		g.metrics.AdminRequests.Inc("denied")
		g.log.Warn("admin call denied", "method", c.method, "peer", c.who.Text)
		return status.Error(codes.PermissionDenied, "this method is closed")
	}
	if !g.may(c.method, c.who) {
		g.metrics.AdminRequests.Inc("denied")
		g.log.Warn("admin call denied", "method", c.method, "peer", c.who.Text)
		return status.Error(codes.PermissionDenied, c.refusal(access))
	}
	start := time.Now()
	err := g.travels(c.method, fleet.Safely(run))
	c.open.End(c.ctx, err, c.answer)
	if err != nil && c.who.Masked() {
		err = status.Error(status.Code(err), mask.Text(status.Convert(err).Message()))
	}
	result := "ok"
	if err != nil {
		result = "failed"
	}
	g.metrics.AdminRequests.Inc(result)
	attrs := []any{"method", c.method, "peer", c.who.Text, "role", c.who.Role(), "took", time.Since(start), "code", status.Code(err).String()}
	if access.Audited() {
		g.log.Info("admin change", append(attrs, changeAttrs(c.req)...)...)
	} else {
		g.log.Debug("admin call", attrs...)
	}
	return err
}

// refusal says why a caller may not.
func (c *call) refusal(access roles.Access) string {
	switch {
	case !c.who.Operator:
		return "you may not call this"
	case c.who.Grant.Role == roles.None:
		return c.who.Grant.Name + " is locked out by the cluster's configuration (access)"
	case access == roles.Content && !c.who.Grant.Content:
		return fmt.Sprintf("%s may not read what is written in messages", c.who.Grant.Name)
	}
	return fmt.Sprintf("%s is %s here, and that role may not do this", c.who.Grant.Name, c.who.Grant.Role)
}

// changeAttrs is what the log says of a request that changes something.
func changeAttrs(req any) (attrs []any) {
	if c, ok := req.(changeRequest); ok {
		ch := c.GetChange()
		attrs = append(attrs, "selector", ch.GetSelector().String(), "dry_run", ch.GetDryRun(), "reason", ch.GetReason(), "local", ch.GetLocal())
	}
	if r, ok := req.(*adminv1.RerouteRequest); ok {
		attrs = append(attrs, "to", r.GetTo())
	}
	if e, ok := req.(*adminv1.ExpireRequest); ok {
		attrs = append(attrs, "at", e.GetAt().AsTime())
	}
	if d, ok := req.(*adminv1.DropRequest); ok {
		attrs = append(attrs, "now", d.GetNow())
	}
	if r, ok := req.(*adminv1.AddRuleRequest); ok {
		attrs = append(attrs, "rule", r.GetRule().String())
	}
	if r, ok := req.(*adminv1.RemoveRuleRequest); ok {
		attrs = append(attrs, "rule", r.GetId(), "release", r.GetRelease())
	}
	if n, ok := req.(interface{ GetNode() string }); ok {
		attrs = append(attrs, "node", n.GetNode())
	}
	if f, ok := req.(interface{ GetForce() bool }); ok {
		attrs = append(attrs, "force", f.GetForce())
	}
	if s, ok := req.(interface{ GetSegments() []string }); ok { // none stands for all that are lost
		attrs = append(attrs, "segments", s.GetSegments())
	}
	if d, ok := req.(interface{ GetDryRun() bool }); ok {
		attrs = append(attrs, "dry_run", d.GetDryRun())
	}
	if r, ok := req.(interface{ GetReason() string }); ok {
		attrs = append(attrs, "reason", r.GetReason())
	}
	if m, ok := req.(interface{ GetId() string }); ok {
		attrs = append(attrs, "id", m.GetId())
	}
	return attrs
}

// travels gives an error the code that the caller acts on.
func (g *gate) travels(method string, err error) error {
	var (
		expect *ExpectError
		bad    InvalidError
		no     RefusedError
		p      *fleet.Panic
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &p):
		g.log.Error("admin call panicked", "method", method, "panic", p.Value, "stack", string(p.Stack))
		return status.Error(codes.Internal, "internal error; the log has more")
	case errors.As(err, &expect):
		return status.Error(codes.FailedPrecondition, expect.Error())
	case errors.As(err, &bad):
		return status.Error(codes.InvalidArgument, bad.Error())
	case errors.As(err, &no):
		return status.Error(codes.FailedPrecondition, text(no.Error()))
	case errors.Is(err, ErrAlone):
		return status.Error(codes.FailedPrecondition, said(err))
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrNoNode), errors.Is(err, rules.ErrNoRule):
		return status.Error(codes.NotFound, said(err))
	case errors.Is(err, ErrUnavailable):
		return status.Error(codes.Unavailable, said(err))
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unknown, said(err))
}

// said is the text of an error for the one who called: where in the program
// it came from is of no use to him.
func said(err error) string { return strings.TrimPrefix(text(err.Error()), "admin: ") }
