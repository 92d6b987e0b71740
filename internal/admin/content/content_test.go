package content

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

type store struct{ text string }

func (s store) Open(mail.ID) (io.ReadCloser, int64, error) {
	return io.NopCloser(iotest.HalfReader(strings.NewReader(s.text))), int64(len(s.text)), nil
}

type sink[T any] struct {
	grpc.ServerStreamingServer[T]
	ctx  context.Context
	data func(*T) []byte
	got  bytes.Buffer
}

func (s *sink[T]) Context() context.Context { return s.ctx }
func (s *sink[T]) Send(v *T) error {
	s.got.Write(s.data(v))
	return nil
}

// A header ends with its empty line, wherever that lies in the pieces, and a
// content comes whole.
func TestHeaderAndBody(t *testing.T) {
	id := mail.ID{1}.String()
	for _, c := range []struct{ header, rest string }{
		{"A: b\r\n\r\n", "body\r\n\r\nmore"},
		{"\r\n", "body\r\n\r\n"},
		{"A: b\r\n", ""},
		{"", ""},
		{"A: b\r\n\r\n", ""},
		{"A: " + strings.Repeat("x", piece-7) + "\r\n\r\n", "body"}, // the end lies over the border
		{"A: " + strings.Repeat("x", piece-6) + "\r\n\r\n", "body"},
		{"A: " + strings.Repeat("x", piece-5) + "\r\n\r\n", "body"},
		{"A: " + strings.Repeat("x", piece-4) + "\r\n\r\n", "body"},
		{"A: " + strings.Repeat("x", 3*piece) + "\r\n\r\n", strings.Repeat("y\r\n\r\n", piece)},
	} {
		s := &Service{Store: store{c.header + c.rest}}
		h := &sink[adminv1.HeadersResponse]{ctx: t.Context(), data: (*adminv1.HeadersResponse).GetData}
		if err := s.Headers(&adminv1.HeadersRequest{Id: id}, h); err != nil || h.got.String() != c.header {
			t.Errorf("of %.20q the header is %.40q, %v", c.header, h.got.String(), err)
		}
		b := &sink[adminv1.BodyResponse]{ctx: t.Context(), data: (*adminv1.BodyResponse).GetData}
		if err := s.Body(&adminv1.BodyRequest{Id: id, Reason: "x"}, b); err != nil || b.got.String() != c.header+c.rest {
			t.Errorf("of %.20q the content is %d octets, %v", c.header, b.got.Len(), err)
		}
	}
	s := &Service{Store: store{strings.Repeat("x", 2*maxHeader)}}
	h := &sink[adminv1.HeadersResponse]{ctx: t.Context(), data: (*adminv1.HeadersResponse).GetData}
	if err := s.Headers(&adminv1.HeadersRequest{Id: id}, h); status.Code(err) != codes.OutOfRange {
		t.Errorf("a header without an end: %v", err)
	}
	b := &sink[adminv1.BodyResponse]{ctx: t.Context(), data: (*adminv1.BodyResponse).GetData}
	if err := s.Body(&adminv1.BodyRequest{Id: id, Reason: " "}, b); status.Code(err) != codes.InvalidArgument || b.got.Len() > 0 {
		t.Errorf("without a reason: %v", err)
	}
	if err := s.Body(&adminv1.BodyRequest{Id: "x", Reason: "x"}, b); status.Code(err) != codes.NotFound {
		t.Errorf("no ID: %v", err)
	}
}
