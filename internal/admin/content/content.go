// Package content is the part of the operator's API that shows what is in a
// message. It is for emergencies: each call is written down with who and why.
package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	piece     = 64 << 10        // octets that travel together
	maxHeader = 1 << 20         // octets of a header
	askWait   = 5 * time.Second // for another node to begin
)

// ErrNotFound says that a message is not in the queue of this node.
var ErrNotFound = errors.New("content: no such message in the queue")

// Store reads contents.
type Store interface {
	// Open reads the content of a message from its beginning. size is what
	// comes. One that is not queued here is ErrNotFound.
	Open(id mail.ID) (r io.ReadCloser, size int64, err error)
}

// Service answers ContentService.
type Service struct {
	adminv1.UnimplementedContentServiceServer
	Store Store
	Fleet fleet.Fleet
}

// call is one of both methods.
type call[T any] struct {
	s      *Service
	id     string
	local  bool
	make   func(size int64, data []byte) *T
	header bool
	theirs func(ctx context.Context, p fleet.Peer) (grpc.ServerStreamingClient[T], error)
}

// Headers gives the header of a message.
func (s *Service) Headers(req *adminv1.HeadersRequest, stream grpc.ServerStreamingServer[adminv1.HeadersResponse]) error {
	c := &call[adminv1.HeadersResponse]{s: s, id: req.GetId(), local: req.GetLocal(), header: true,
		make: func(_ int64, data []byte) *adminv1.HeadersResponse { return &adminv1.HeadersResponse{Data: data} },
		theirs: func(ctx context.Context, p fleet.Peer) (grpc.ServerStreamingClient[adminv1.HeadersResponse], error) {
			return adminv1.NewContentServiceClient(p.Conn).Headers(ctx, &adminv1.HeadersRequest{Id: req.GetId(), Reason: req.GetReason(), Local: true})
		}}
	return c.run(stream.Context(), stream.Send)
}

// Body gives the content of a message.
func (s *Service) Body(req *adminv1.BodyRequest, stream grpc.ServerStreamingServer[adminv1.BodyResponse]) error {
	if strings.TrimSpace(req.GetReason()) == "" {
		return status.Error(codes.InvalidArgument, "a reason is needed: it is logged")
	}
	c := &call[adminv1.BodyResponse]{s: s, id: req.GetId(), local: req.GetLocal(),
		make: func(size int64, data []byte) *adminv1.BodyResponse {
			return &adminv1.BodyResponse{Size: size, Data: data}
		},
		theirs: func(ctx context.Context, p fleet.Peer) (grpc.ServerStreamingClient[adminv1.BodyResponse], error) {
			return adminv1.NewContentServiceClient(p.Conn).Body(ctx, &adminv1.BodyRequest{Id: req.GetId(), Reason: req.GetReason(), Local: true})
		}}
	return c.run(stream.Context(), stream.Send)
}

// run sends what this node has, or asks the others one by one: one of them has
// the message.
func (c *call[T]) run(ctx context.Context, send func(*T) error) error {
	id, err := mail.ParseID(c.id)
	if err != nil {
		return status.Errorf(codes.NotFound, "%q is no ID of a message", c.id)
	}
	r, size, err := c.s.Store.Open(id)
	if err == nil {
		defer func() { _ = r.Close() }() // it was only read
		return c.send(r, size, send)
	}
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	var missing []string
	for _, p := range c.s.Fleet.Others(ctx, c.local) {
		begun, err := c.relay(ctx, p, send)
		switch {
		case err == nil || begun || ctx.Err() != nil:
			return err
		case status.Code(err) != codes.NotFound:
			missing = append(missing, p.Name)
		}
	}
	if len(missing) > 0 {
		return status.Errorf(codes.Unavailable, "no such message in the queue of the nodes that answer; %s did not", strings.Join(missing, ", "))
	}
	return status.Error(codes.NotFound, "no such message in the queue")
}

// send sends a content, or its header.
func (c *call[T]) send(r io.Reader, size int64, send func(*T) error) error {
	var header []byte // the end of what was sent
	for sent, first := int64(0), true; ; first = false {
		buf := make([]byte, piece)
		n, err := io.ReadFull(r, buf)
		buf = buf[:n]
		done := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !done {
			return fmt.Errorf("content: reading: %w", err)
		}
		if c.header {
			end := endOfHeader(header, buf)
			if end >= 0 {
				buf, done = buf[:end], true
			} else if sent+int64(len(buf)) > maxHeader {
				return status.Errorf(codes.OutOfRange, "the header is longer than %d octets", maxHeader)
			}
			header = append(header[:0], buf[max(0, len(buf)-3):]...)
		}
		if first || len(buf) > 0 {
			if err := send(c.make(size, buf)); err != nil {
				return err
			}
		}
		if sent += int64(len(buf)); done {
			return nil
		}
		size = 0
	}
}

// endOfHeader gives where in buf the octet behind the empty line is that ends a
// header, or -1. before is what came before buf, its last three octets.
func endOfHeader(before, buf []byte) int {
	all := append(bytes.Clone(before), buf...)
	if len(before) == 0 && bytes.HasPrefix(all, []byte("\r\n")) {
		return len("\r\n")
	}
	i := bytes.Index(all, []byte("\r\n\r\n"))
	if i < 0 {
		return -1
	}
	return i + len("\r\n\r\n") - len(before)
}

// relay hands on what another node sends. begun tells that some of it went out.
func (c *call[T]) relay(ctx context.Context, p fleet.Peer, send func(*T) error) (begun bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(askWait, cancel)
	defer late.Stop()
	stream, err := c.theirs(ctx, p)
	if err != nil {
		return false, err
	}
	for {
		v, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return begun, nil
		case err != nil:
			return begun, err
		}
		late.Stop()
		begun = true
		if err := send(v); err != nil {
			return true, err
		}
	}
}
