package alike

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// postqueue shows the queue and makes mail in it due.
func (c *call) postqueue(ctx context.Context, args []string) error {
	var run func() error
	do := func(f func() error) error {
		if run != nil {
			return fail(exUsage, "use one of -p, -j, -f, -i ID and -s DOMAIN")
		}
		run = f
		return nil
	}
	rest, err := options("c:fi:jps:v", args, func(letter byte, value string) error {
		switch letter {
		case 'p':
			return do(func() error { return c.list(ctx, &table{}) })
		case 'j':
			return do(func() error { return c.list(ctx, lines{}) })
		case 'f':
			return do(func() error { return c.retry(ctx, &adminv1.Selector{Everything: true}) })
		case 'i':
			return do(func() error { return c.retry(ctx, &adminv1.Selector{Ids: []string{value}}) })
		case 's':
			return do(func() error { return c.retry(ctx, site(value)) })
		}
		return nil // -c and -v are of no use here
	})
	switch {
	case err != nil:
		return err
	case len(rest) > 0 || run == nil:
		return fail(exUsage, "usage: postqueue -p | postqueue -j | postqueue -f | postqueue -i ID | postqueue -s DOMAIN")
	}
	return run()
}

// site picks the mail for a domain, which may stand in brackets.
func site(name string) *adminv1.Selector {
	if in, ok := strings.CutPrefix(name, "["); ok && strings.HasSuffix(in, "]") && strings.ContainsAny(in, "ghijklmnopqrstuvwxyz") {
		name = strings.TrimSuffix(in, "]") // a host name, not an address
	}
	return &adminv1.Selector{Domains: []string{name}}
}

// retry makes mail due at once.
func (c *call) retry(ctx context.Context, sel *adminv1.Selector) error {
	return c.With(func(conn grpc.ClientConnInterface) error {
		res, err := adminv1.NewQueueServiceClient(conn).Retry(ctx, &adminv1.RetryRequest{
			Change: &adminv1.Change{Selector: sel, Reason: c.name},
		})
		if err != nil {
			return err
		}
		return missing(res.GetResult().GetMissingNodes(), "the mail there is as it was")
	})
}

// missing is the error of an answer that lacks some nodes.
func missing(nodes []string, what string) error {
	if len(nodes) == 0 {
		return nil
	}
	return fail(exUnavailable, "no answer from %s: %s", strings.Join(nodes, ", "), what)
}

// printer shows messages as they come.
type printer interface {
	message(w io.Writer, m []*adminv1.QueueEntry) error
	end(w io.Writer) error
}

// list shows the queue.
func (c *call) list(ctx context.Context, p printer) error {
	return c.With(func(conn grpc.ClientConnInterface) error {
		stream, err := adminv1.NewQueueServiceClient(conn).List(ctx, &adminv1.ListRequest{})
		if err != nil {
			return err
		}
		w := bufio.NewWriterSize(c.Stdout, 64<<10)
		absent, err := byMessage(stream.Recv, func(m []*adminv1.QueueEntry) error { return p.message(w, m) })
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		if err := p.end(w); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		return missing(absent, "what is there is missing here")
	})
}

// byMessage calls visit for each message of a list, with all of its recipients
// that are in the queue. It returns the nodes that did not answer.
func byMessage(recv func() (*adminv1.ListResponse, error), visit func(m []*adminv1.QueueEntry) error) (absent []string, err error) {
	var m []*adminv1.QueueEntry
	for {
		batch, err := recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return absent, err
		}
		absent = append(absent, batch.GetMissingNodes()...)
		for _, e := range batch.GetEntries() {
			if len(m) > 0 && m[0].GetId() != e.GetId() {
				if err := visit(m); err != nil {
					return absent, err
				}
				m = nil
			}
			m = append(m, e)
		}
	}
	if len(m) == 0 {
		return absent, nil
	}
	return absent, visit(m)
}

// Names of Postfix's queues.
const (
	queueActive   = "active"
	queueDeferred = "deferred"
	queueHold     = "hold"
)

// queueOf says in which queue Postfix would have a message. There it is the
// whole message that is in one; here each recipient stands for itself.
func queueOf(m []*adminv1.QueueEntry) string {
	held := true
	for _, e := range m {
		if e.GetState() == adminv1.RecipientState_RECIPIENT_STATE_ACTIVE {
			return queueActive
		}
		held = held && e.GetState() == adminv1.RecipientState_RECIPIENT_STATE_HELD
	}
	if held {
		return queueHold
	}
	return queueDeferred
}

// sender writes a sender as Postfix does.
func sender(m []*adminv1.QueueEntry) string {
	if m[0].GetFrom() == "" {
		return "MAILER-DAEMON"
	}
	return m[0].GetFrom()
}

// lines prints a JSON object a message, with Postfix's keys.
type lines struct{}

type jsonMessage struct {
	QueueName    string     `json:"queue_name"`
	QueueID      string     `json:"queue_id"`
	ArrivalTime  int64      `json:"arrival_time"`
	MessageSize  int64      `json:"message_size"`
	ForcedExpire bool       `json:"forced_expire"`
	Sender       string     `json:"sender"`
	Recipients   []jsonRcpt `json:"recipients"`
}

type jsonRcpt struct {
	Address     string `json:"address"`
	DelayReason string `json:"delay_reason,omitempty"`
}

func (lines) message(w io.Writer, m []*adminv1.QueueEntry) error {
	out := jsonMessage{
		QueueName: queueOf(m), QueueID: m[0].GetId(), ArrivalTime: m[0].GetArrived().GetSeconds(),
		MessageSize: m[0].GetSize(), Sender: sender(m),
	}
	for _, e := range m {
		out.Recipients = append(out.Recipients, jsonRcpt{e.GetRcpt(), e.GetLastReply()})
	}
	text, err := cmdline.Marshal(out)
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

func (lines) end(io.Writer) error { return nil }

// table prints Postfix's text for long queue IDs, with a wider first column:
// ours have 26 characters.
type table struct {
	messages, size int64
}

const (
	messageRow = "%-27s %8d %19.19s %s\n"
	otherRow   = "%-27s %8s %-19s %s\n"
	// reasonEnd is the column in which a reason ends.
	reasonEnd = 86
)

func (t *table) message(w io.Writer, m []*adminv1.QueueEntry) error {
	if t.messages == 0 {
		if _, err := fmt.Fprintf(w, otherRow, "----Queue ID-----", "--Size--", "---Arrival Time----", "--Sender/Recipient------"); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	t.messages++
	t.size += m[0].GetSize()
	mark := map[string]string{queueActive: "*", queueHold: "!"}[queueOf(m)]
	arrived := m[0].GetArrived().AsTime().Local().Format(time.ANSIC)
	if _, err := fmt.Fprintf(w, messageRow, m[0].GetId()+mark, m[0].GetSize(), arrived, cmdline.Cell(sender(m), 320)); err != nil {
		return err
	}
	last := ""
	for _, e := range m {
		if why := e.GetLastReply(); why != last {
			last = why
			if why == "" {
				why = "reason unavailable"
			}
			if _, err := fmt.Fprintf(w, "%*s\n", reasonEnd, "("+cmdline.Cell(why, 1000)+")"); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, otherRow, "", "", "", cmdline.Cell(e.GetRcpt(), 320)); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) end(w io.Writer) error {
	if t.messages == 0 {
		_, err := fmt.Fprintln(w, "Mail queue is empty")
		return err
	}
	many := "s"
	if t.messages == 1 {
		many = ""
	}
	_, err := fmt.Fprintf(w, "\n-- %d Kbytes in %d Request%s.\n", t.size/1024, t.messages, many)
	return err
}
