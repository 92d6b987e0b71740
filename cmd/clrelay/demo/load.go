package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"

	"github.com/emersion/go-smtp"
)

// seqHeader is the header field by which the inbox knows a message again.
const seqHeader = "X-Demo-Seq"

// load writes mail as an office would and hands it to the relay.
type load struct {
	addr   string
	ledger *ledger
	rng    *rand.Rand
	client *smtp.Client
	seq    int64
}

var queuedAs = regexp.MustCompile(`queued as ([0-9A-Z]+)`)

// run sends rate messages a second until ctx ends. A message that the relay
// does not take is counted and not repeated: the ledger is about its word.
func (l *load) run(ctx context.Context, rate float64) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	defer l.drop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := l.send(); err != nil {
				l.ledger.refused()
				l.drop()
			}
		}
	}
}

func (l *load) drop() {
	if l.client != nil {
		l.client.Close()
		l.client = nil
	}
}

func (l *load) send() error {
	if l.client == nil {
		c, err := smtp.Dial(l.addr)
		if err != nil {
			return err
		}
		l.client = c
		if err := c.Hello("office." + homeDomain); err != nil {
			return err
		}
	}
	l.seq++
	from := pick(l.rng, people) + "@" + homeDomain
	rcpts := l.recipients()
	if err := l.client.Mail(from, nil); err != nil {
		return err
	}
	for _, r := range rcpts {
		if err := l.client.Rcpt(r, nil); err != nil {
			return err
		}
	}
	data, err := l.client.Data()
	if err != nil {
		return err
	}
	if _, err := data.Write(l.message(from, rcpts)); err != nil {
		return err
	}
	res, err := data.CloseWithResponse()
	if err != nil {
		return err
	}
	m := queuedAs.FindStringSubmatch(res.StatusText)
	if m == nil {
		return fmt.Errorf("demo: the relay's 250 names no ID: %q", res.StatusText)
	}
	l.ledger.accepted(l.seq, rcpts, m[1], time.Now())
	return nil
}

// recipients picks one recipient, sometimes two, among the invented domains.
func (l *load) recipients() []string {
	out := []string{l.recipient()}
	if l.rng.IntN(8) == 0 {
		if r := l.recipient(); r != out[0] {
			out = append(out, r)
		}
	}
	return out
}

func (l *load) recipient() string {
	n := l.rng.IntN(100)
	for _, d := range domains {
		if n -= d.share; n < 0 {
			user := pick(l.rng, people)
			if d.unknown > 0 && l.rng.IntN(100) < d.unknown {
				user = unknownPrefix + user
			}
			return user + "@" + d.name
		}
	}
	return pick(l.rng, people) + "@" + domains[0].name
}

func (l *load) message(from string, rcpts []string) []byte {
	var b strings.Builder
	now := time.Now()
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <%s>\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%d.%d@%s>\r\n%s: %d\r\n",
		from, strings.Join(rcpts, ">, <"), pick(l.rng, subjects), now.Format(time.RFC1123Z), now.UnixNano(), l.seq, homeDomain, seqHeader, l.seq)
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nHello,\r\n\r\n")
	lines := 3 + l.rng.IntN(30)
	if l.rng.IntN(10) == 0 {
		lines *= 50 // somebody pastes a report
	}
	for range lines {
		b.WriteString(pick(l.rng, sentences))
		b.WriteString("\r\n")
	}
	fmt.Fprintf(&b, "\r\n%s\r\n", strings.SplitN(from, "@", 2)[0])
	return []byte(b.String())
}

func pick(rng *rand.Rand, from []string) string { return from[rng.IntN(len(from))] }
