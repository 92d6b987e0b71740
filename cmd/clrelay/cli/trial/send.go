package trial

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/cmd/clrelay/submit"
	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// sending is a test send.
type sending struct {
	from string
	to   []string
	via  string
	wait time.Duration
}

func (n *noun) sendCommand() *cobra.Command {
	s := &sending{}
	wait := ""
	cmd := &cobra.Command{
		Use:   "send --from ADDRESS --to ADDRESS...",
		Short: "Send a small message through the relay's own door",
		Long: `Send a small message that says that it is a test to a listener of the relay, as
any client would. Without --via it is the first listener of the node that is
asked, at the address that the node names for it; so the client is this
machine, and senders must let it.

With --wait it follows the message until each recipient is delivered, has
bounced or was deferred once, or until the time is over. The exit code is 0 when
all were delivered, 8 when one was not, and 7 when the time was over.`,
		Example: `  clrelay test send --from me@example.edu --to a.ng@partner.example --wait`,
		Args:    cmdline.AtMost[*cobra.Command](0, "name recipients with --to"),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if len(s.to) == 0 {
				return cmdline.Usagef(cmd.CommandPath(), "--to is needed")
			}
			if cmd.Flags().Changed("wait") {
				if s.wait, err = cmdline.ParseSpan(wait); err != nil || s.wait == 0 {
					return cmdline.Usagef(cmd.CommandPath(), "--wait %s: a time such as 30s", wait)
				}
			}
			return n.with(func(conn grpc.ClientConnInterface) error { return n.send(cmd.Context(), conn, s) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.from, "from", "", "sender `address`; left out: the null reverse-path")
	f.StringArrayVar(&s.to, "to", nil, "recipient `address`; may be given again")
	f.StringVar(&s.via, "via", "", "`host:port` of the listener")
	f.StringVar(&wait, "wait", "60s", "follow the message for this `duration` at most")
	f.Lookup("wait").NoOptDefVal = "60s"
	return cmd
}

// sent is what test send prints.
type sent struct {
	ID         string     `json:"id"`
	Via        string     `json:"via"`
	Reply      string     `json:"reply"`
	Recipients []sentRcpt `json:"recipients"`
	Seconds    float64    `json:"seconds"`
}

type sentRcpt struct {
	Rcpt     string  `json:"rcpt"`
	Event    string  `json:"event"` // queued, until something happened
	Attempts uint32  `json:"attempts"`
	Reply    string  `json:"reply"`
	Remote   string  `json:"remote"`
	Node     string  `json:"node"`
	Seconds  float64 `json:"seconds"`
}

func (n *noun) send(ctx context.Context, conn grpc.ClientConnInterface, s *sending) error {
	env := &mail.Envelope{}
	var err error
	if s.from != "" && s.from != "<>" {
		if env.From, err = mail.ParseMailbox(s.from, true); err != nil {
			return cmdline.Usagef("clrelay test send", "--from %s: %w", s.from, err)
		}
	}
	for _, to := range s.to {
		addr, err := mail.ParseMailbox(to, true)
		if err != nil {
			return cmdline.Usagef("clrelay test send", "--to %s: %w", to, err)
		}
		env.Recipients = append(env.Recipients, mail.Recipient{Addr: addr})
		env.SMTPUTF8 = env.SMTPUTF8 || addr.NeedsUTF8()
	}
	env.SMTPUTF8 = env.SMTPUTF8 || env.From.NeedsUTF8()
	server := submit.Server{Addr: s.via, Hostname: "localhost.localdomain"}
	if name, err := os.Hostname(); err == nil && name != "" {
		server.Hostname = name
	}
	if server.Addr == "" {
		if server.Addr, err = door(ctx, conn); err != nil {
			return err
		}
	}
	start := n.Now()
	queued, err := submit.Send(ctx, server, env, testMessage(env, server.Hostname, start))
	if err != nil {
		return cmdline.Exitf(cmdline.ExitFailed, "%s: %w", server.Addr, err)
	}
	out := &sent{ID: queued[0].ID, Via: server.Addr, Reply: queued[0].Reply, Recipients: []sentRcpt{}}
	for _, r := range env.Recipients {
		out.Recipients = append(out.Recipients, sentRcpt{Rcpt: r.Addr.String(), Event: "queued"})
	}
	if s.wait > 0 {
		if err := n.follow(ctx, conn, s.wait, out, start); err != nil {
			return err
		}
	}
	out.Seconds = seconds(n.Now().Sub(start))
	if err := n.Object(out, func(w io.Writer) error { return sentTable(w, out) }); err != nil {
		return err
	}
	return verdict(out, s.wait)
}

// door is where the node that is asked takes mail.
func door(ctx context.Context, conn grpc.ClientConnInterface) (string, error) {
	st, err := adminv1.NewNodeServiceClient(conn).Status(ctx, &adminv1.StatusRequest{})
	if err != nil {
		return "", err
	}
	if len(st.GetSmtp()) == 0 {
		return "", cmdline.Exitf(cmdline.ExitFailed, "node %s takes no mail; name a listener with --via", st.GetNode())
	}
	host, port, err := net.SplitHostPort(st.GetSmtp()[0])
	if err != nil {
		return "", fmt.Errorf("the listener %q of node %s: %w", st.GetSmtp()[0], st.GetNode(), err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// content is a message that fits into memory.
type content string

func (c content) Size() int64 { return int64(len(c)) }
func (c content) Open() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(c))), nil
}

// testMessage says what it is.
func testMessage(env *mail.Envelope, host string, now time.Time) content {
	from := env.From.String()
	if from == "" {
		from = "MAILER-DAEMON@" + host
	}
	var to []string
	for _, r := range env.Recipients {
		to = append(to, r.Addr.String())
	}
	id := mail.NewID(now)
	return content("From: " + from + "\r\nTo: " + strings.Join(to, ",\r\n\t") + "\r\nSubject: Test message of clrelay " + id.String() +
		"\r\nDate: " + now.Format(time.RFC1123Z) + "\r\nMessage-ID: <" + id.String() + "@" + host +
		">\r\nAuto-Submitted: auto-generated\r\nX-Clrelay-Test: yes\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n" +
		"This is a test: an operator of " + host + " ran \"clrelay test send\".\r\nNothing needs to be done.\r\n")
}

// pollEvery is how often the relay is asked.
const pollEvery = 150 * time.Millisecond

// follow asks the relay what became of the message until something did of all
// its recipients.
func (n *noun) follow(ctx context.Context, conn grpc.ClientConnInterface, wait time.Duration, out *sent, start time.Time) error {
	if out.ID == "" {
		return cmdline.Exitf(cmdline.ExitFailed, "%s named no ID to follow: it said %s", out.Via, out.Reply)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	asked := adminv1.NewTestServiceClient(conn)
	for {
		res, err := asked.Outcomes(ctx, &adminv1.OutcomesRequest{Id: out.ID})
		switch {
		case status.Code(err) == codes.DeadlineExceeded || ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		for _, o := range res.GetOutcomes() {
			i := slices.IndexFunc(out.Recipients, func(r sentRcpt) bool { return r.Rcpt == o.GetRcpt() })
			if i < 0 {
				continue
			}
			out.Recipients[i] = sentRcpt{o.GetRcpt(), o.GetEvent(), o.GetAttempts(), o.GetReply(), o.GetRemote(), o.GetNode(), seconds(o.GetAt().AsTime().Sub(start))}
		}
		if !slices.ContainsFunc(out.Recipients, func(r sentRcpt) bool { return r.Event == "queued" }) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func seconds(d time.Duration) float64 { return float64(max(0, d).Milliseconds()) / 1000 }

func sentTable(w io.Writer, s *sent) error {
	if _, err := fmt.Fprintf(w, "%s\tqueued by %s\n", s.ID, s.Via); err != nil {
		return err
	}
	for _, r := range s.Recipients {
		if r.Event == "queued" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\t%.1fs\t%s\t%s\n", cmdline.Cell(r.Rcpt, 60), r.Event, r.Seconds, cmdline.Cell(r.Remote, 60), cmdline.Cell(r.Reply, 120)); err != nil {
			return err
		}
	}
	return nil
}

// verdict is the error of a message that did not arrive.
func verdict(s *sent, wait time.Duration) error {
	if wait == 0 {
		return nil
	}
	waiting, not := 0, 0
	for _, r := range s.Recipients {
		switch r.Event {
		case "delivered":
		case "queued":
			waiting++
		default:
			not++
		}
	}
	switch {
	case not > 0:
		return cmdline.Exitf(cmdline.ExitFindings, "%d of %s not delivered: clrelay message show %s", not, cmdline.Plural(int64(len(s.Recipients)), "recipient"), s.ID)
	case waiting > 0:
		return cmdline.Exitf(cmdline.ExitPartly, "nothing is known of %s after %v: clrelay message show %s", cmdline.Plural(int64(waiting), "recipient"), wait, s.ID)
	}
	return nil
}
