package maillog

import (
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// Delivery is what a line about one recipient's fate tells.
type Delivery struct {
	ID      mail.ID
	From    mail.Address
	To      mail.Address
	Outcome mail.Outcome  // Recipient is not looked at
	Attempt int           // 1 for the first
	Delay   time.Duration // since the message was accepted
	Next    time.Time     // of the next attempt; for Deferred alone
	Class   string        // of the reply; empty for Delivered
}

// Accepted tells that a message is on stable storage and took so long from
// the end of its content.
func (l *Log) Accepted(env *mail.Envelope, size int64, took time.Duration) {
	ln, ok := l.begin("accepted")
	if !ok {
		return
	}
	ln.id("id", env.ID)
	ln.addr("from", env.From)
	if len(env.Recipients) == 1 {
		ln.addr("to", env.Recipients[0].Addr)
	}
	ln.num("rcpts", int64(len(env.Recipients)))
	ln.num("size", size)
	ln.client(&env.Client)
	ln.millis("took_ms", took)
	l.end(ln)
}

// Rejected tells that a step of a transaction was refused. from and to are
// what the client gave, to is empty before RCPT.
func (l *Log) Rejected(c mail.Client, from, to string, r *mail.Reply) {
	ln, ok := l.begin("rejected")
	if !ok {
		return
	}
	ln.str("from", from)
	ln.str("to", to)
	ln.client(&c)
	ln.reply(r)
	ln.str("reply", r.Text)
	if r.Cause != nil {
		ln.str("reason", r.Cause.Error())
	}
	l.end(ln)
}

// Delivered tells that a next hop took the message for a recipient.
func (l *Log) Delivered(d Delivery) { l.delivery("delivered", &d) }

// Deferred tells that an attempt failed and when the next one is due.
func (l *Log) Deferred(d Delivery) { l.delivery("deferred", &d) }

// Bounced tells that a recipient failed for good.
func (l *Log) Bounced(d Delivery) { l.delivery("bounced", &d) }

// Expired tells that a recipient's time in the queue ran out; the outcome is
// that of the last attempt.
func (l *Log) Expired(d Delivery) { l.delivery("expired", &d) }

// DoubleBounce tells that a report about a failure could itself not be
// delivered and ends here.
func (l *Log) DoubleBounce(d Delivery) { l.delivery("double_bounce", &d) }

func (l *Log) delivery(event string, d *Delivery) {
	ln, ok := l.begin(event)
	if !ok {
		return
	}
	ln.id("id", d.ID)
	ln.addr("from", d.From)
	ln.addr("to", d.To)
	ln.str("relay", d.Outcome.Remote)
	ln.str("source", d.Outcome.Source)
	ln.num("attempt", int64(d.Attempt))
	ln.reply(&d.Outcome.Reply)
	ln.str("class", d.Class)
	ln.millis("delay_ms", d.Delay)
	ln.str("tls", d.Outcome.TLS)
	ln.str("reply", d.Outcome.Reply.Text)
	if cause := d.Outcome.Reply.Cause; cause != nil {
		ln.str("reason", cause.Error())
	}
	ln.time("next", d.Next)
	l.end(ln)
}

// Dropped tells that an operator dropped a recipient, and why.
func (l *Log) Dropped(id mail.ID, from, to mail.Address, reason string) {
	l.operator("dropped", id, [2]mail.Address{from, to}, reason)
}

// Trashed tells that an operator dropped a recipient and can still bring it
// back, and why. If nobody does, Dropped follows.
func (l *Log) Trashed(id mail.ID, from, to mail.Address, reason string) {
	l.operator("trashed", id, [2]mail.Address{from, to}, reason)
}

// Undropped tells that a recipient is back from the trash, and why.
func (l *Log) Undropped(id mail.ID, from, to mail.Address, reason string) {
	l.operator("undropped", id, [2]mail.Address{from, to}, reason)
}

// Held tells that a recipient is kept back, and why.
func (l *Log) Held(id mail.ID, from, to mail.Address, reason string) {
	l.operator("held", id, [2]mail.Address{from, to}, reason)
}

// Released tells that a recipient is no longer kept back, and why.
func (l *Log) Released(id mail.ID, from, to mail.Address, reason string) {
	l.operator("released", id, [2]mail.Address{from, to}, reason)
}

func (l *Log) operator(event string, id mail.ID, path [2]mail.Address, reason string) {
	ln, ok := l.begin(event)
	if !ok {
		return
	}
	ln.id("id", id)
	ln.addr("from", path[0])
	ln.addr("to", path[1])
	ln.str("reason", reason)
	l.end(ln)
}

// Limited tells that mail to a destination waits for a limit, how often it was
// put off since that was told last, and for how long if nothing changes.
func (l *Log) Limited(destination, reason string, times int, left time.Duration) {
	ln, ok := l.begin("limited")
	if !ok {
		return
	}
	ln.str("destination", destination)
	ln.str("reason", reason)
	ln.num("times", int64(times))
	ln.millis("left_ms", left)
	l.end(ln)
}

// DSN tells that a report (id) about the message of was written. kind is
// failure, delay, success or relayed.
func (l *Log) DSN(id, of mail.ID, kind string) {
	ln, ok := l.begin("dsn")
	if !ok {
		return
	}
	ln.id("id", id)
	ln.id("of", of)
	ln.word("kind", kind)
	l.end(ln)
}

// Shaped tells what a mail host's reply led to: kind is suspend, connections,
// rate or messages_per_connection, what the change in words, with the reply.
func (l *Log) Shaped(site, kind, what string) {
	ln, ok := l.begin("shaped")
	if !ok {
		return
	}
	ln.str("site", site)
	ln.word("kind", kind)
	ln.str("reason", what)
	l.end(ln)
}

// Back is what a line tells of something that came back to the return path of
// a message. What is not known is zero.
type Back struct {
	Of       mail.ID // the message
	ID       mail.ID // what came back
	From, To mail.Address
	Kind     string     // bounce, delayed, success, complaint, auto_reply or unknown
	Class    string     // of a bounce
	Reply    mail.Reply // as it was told
}

// Returned tells that something came back.
func (l *Log) Returned(b Back) {
	ln, ok := l.begin("returned")
	if !ok {
		return
	}
	ln.id("id", b.Of)
	ln.id("return", b.ID)
	ln.word("kind", b.Kind)
	if !b.To.IsNull() {
		ln.addr("from", b.From)
		ln.addr("to", b.To)
	}
	ln.str("class", b.Class)
	if b.Reply.Code != 0 {
		ln.reply(&b.Reply)
	}
	ln.str("reply", b.Reply.Text)
	l.end(ln)
}

// Connected tells that a client came. It is written with Options.Debug alone.
func (l *Log) Connected(c mail.Client) {
	if l == nil || !l.o.Debug {
		return
	}
	ln, ok := l.begin("connected")
	if !ok {
		return
	}
	ln.client(&c)
	l.end(ln)
}

// Disconnected tells that a client is gone, how its session ended and how
// long it took. It is written with Options.Debug alone.
func (l *Log) Disconnected(c mail.Client, reason string, took time.Duration) {
	if l == nil || !l.o.Debug {
		return
	}
	ln, ok := l.begin("disconnected")
	if !ok {
		return
	}
	ln.client(&c)
	ln.str("reason", reason)
	ln.millis("took_ms", took)
	l.end(ln)
}

// client writes where a message came from.
func (l *line) client(c *mail.Client) {
	if c.Addr.IsValid() {
		l.key("client")
		if l.json {
			l.b = append(l.b, '"')
		}
		l.b = c.Addr.Unmap().WithZone("").AppendTo(l.b)
		if l.json {
			l.b = append(l.b, '"')
		}
	}
	l.str("helo", c.Helo)
	l.str("proto", c.Protocol)
	l.str("sender", c.Sender)
	l.str("tls", c.TLS)
}
