package observe

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/admin/content"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/tracelog"
	"github.com/clrelay/clrelay/spool"
)

// Segments knows which nodes have a segment.
type Segments interface {
	Segment(id fsm.SegmentID) (fsm.Segment, error)
}

// Copies names the nodes that have a segment, as package tracelog wants it.
func Copies(s Segments) func(segment uint64) []string {
	return func(segment uint64) (out []string) {
		g, err := s.Segment(fsm.SegmentID(segment))
		if err != nil {
			return nil // it is done with by now
		}
		for _, m := range g.Members {
			out = append(out, m.Node)
		}
		return out
	}
}

// Acceptor is the spool's door as package smtpd wants it.
type Acceptor struct {
	Spool  *spool.Spool
	Traces *tracelog.Log
}

// Accept stores a message.
func (a Acceptor) Accept(ctx context.Context, env *mail.Envelope, body io.Reader) error {
	m, err := a.Spool.Accept(ctx, env, body)
	if err == nil {
		a.Traces.Accepted(env, m.Size(), m.Header(0).Segment, time.Since(env.Arrived))
	}
	return err
}

// Traced is the queue of a node of a cluster: what it takes over of another
// node is told to the traces, for those of the other node may be lost.
type Traced struct {
	*queue.Runner
	Traces *tracelog.Log
}

// Resume takes a message over.
func (q *Traced) Resume(m *spool.Message, env *mail.Envelope, states []spool.RecipientState) {
	q.Runner.Resume(m, env, states)
	q.Traces.TakenOver(env, m.Size(), m.Header(0).Segment)
}

// Contents are those of the messages in the spool.
type Contents struct{ Spool *spool.Spool }

// Open reads a content.
func (c *Contents) Open(id mail.ID) (io.ReadCloser, int64, error) {
	m, ok := c.Spool.Find(id)
	if !ok {
		return nil, 0, content.ErrNotFound
	}
	r := c.Spool.Content(m)
	body, err := r.Open()
	if errors.Is(err, spool.ErrFinished) {
		return nil, 0, content.ErrNotFound
	}
	return body, r.Size(), err
}
