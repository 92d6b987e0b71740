package admin

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/metrics"
)

// Access says what a method does to the node.
type Access uint8

// The kinds of access. A method without one cannot be called.
const (
	denied  Access = iota
	Looks          // shows something, changes nothing
	Changes        // changes something, and is logged
)

// AccessTo tells what a method, by its full name, does. It is the list of all
// methods that can be called.
func AccessTo(method string) Access {
	switch method {
	case "/admin.v1.QueueService/Summary",
		"/admin.v1.QueueService/List",
		"/admin.v1.MessageService/Show",
		"/admin.v1.NodeService/Status",
		"/grpc.health.v1.Health/Check",
		"/grpc.health.v1.Health/List",
		"/grpc.health.v1.Health/Watch",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo":
		return Looks
	case "/admin.v1.QueueService/Retry",
		"/admin.v1.QueueService/Hold",
		"/admin.v1.QueueService/Release",
		"/admin.v1.QueueService/Drop",
		"/admin.v1.QueueService/Bounce":
		return Changes
	}
	return denied
}

// gate stands before every method.
type gate struct {
	log     *slog.Logger
	metrics *metrics.Node
}

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	err = g.pass(ctx, info.FullMethod, req, func() error {
		resp, err = next(ctx, req)
		return err
	})
	return resp, err
}

func (g *gate) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return g.pass(ss.Context(), info.FullMethod, nil, func() error { return next(srv, ss) })
}

// pass lets a call through, counts it and logs what changes something. The
// error it returns is the one that travels.
func (g *gate) pass(ctx context.Context, method string, req any, call func() error) error {
	access := AccessTo(method)
	if access == denied {
		g.metrics.AdminRequests.Inc("denied")
		g.log.Warn("admin call denied", "method", method, "peer", caller(ctx))
		return status.Error(codes.PermissionDenied, "this method is closed")
	}
	start := time.Now()
	err := g.travels(method, safely(call))
	result := "ok"
	if err != nil {
		result = "failed"
	}
	g.metrics.AdminRequests.Inc(result)
	attrs := []any{"method", method, "peer", caller(ctx), "took", time.Since(start), "code", status.Code(err).String()}
	if c, ok := req.(changeRequest); ok && access == Changes {
		attrs = append(attrs, "selector", c.GetChange().GetSelector().String(), "dry_run", c.GetChange().GetDryRun(), "reason", c.GetChange().GetReason())
		g.log.Info("admin change", attrs...)
	} else {
		g.log.Debug("admin call", attrs...)
	}
	return err
}

// panicked is the error of a call that panicked.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return "panic in an admin call" }

func safely(call func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicked{v, debug.Stack()}
		}
	}()
	return call()
}

// travels gives an error the code that the caller acts on.
func (g *gate) travels(method string, err error) error {
	var (
		expect *ExpectError
		bad    badSelector
		p      *panicked
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &p):
		g.log.Error("admin call panicked", "method", method, "panic", p.value, "stack", string(p.stack))
		return status.Error(codes.Internal, "internal error; the log has more")
	case errors.As(err, &expect):
		return status.Error(codes.FailedPrecondition, expect.Error())
	case errors.As(err, &bad):
		return status.Error(codes.InvalidArgument, bad.Error())
	case errors.Is(err, ErrNotFound):
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

func caller(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.AuthInfo != nil {
		if info, ok := p.AuthInfo.(PeerInfo); ok {
			return info.String()
		}
	}
	return "unknown"
}
