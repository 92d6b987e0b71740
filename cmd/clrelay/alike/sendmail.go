package alike

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cmd/clrelay/submit"
	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// mode is what sendmail is to do.
type mode uint8

const (
	modeSend mode = iota
	modeList
	modeFlush
	modeServe
	modeAliases
)

// order is the command line of sendmail.
type order struct {
	mode       mode
	header     bool // -t
	keepDots   bool // -i
	from       *string
	fullName   string
	notify     mail.Notify
	ret        mail.Return
	envID      string
	flush      *adminv1.Selector
	recipients []string
}

// sendmailOptions are those of Postfix. -q is taken out before: its value
// stands right behind it or is not there.
const sendmailOptions = "A:B:C:F:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:r:tvx"

func (c *call) sendmail(ctx context.Context, args []string) error {
	o, err := c.order(args)
	if err != nil {
		return err
	}
	switch o.mode {
	case modeList:
		return c.list(ctx, &table{})
	case modeFlush:
		return c.retry(ctx, o.flush)
	case modeServe:
		return c.serve(ctx)
	case modeAliases:
		_, err := fmt.Fprintln(c.Stderr, "sendmail: a relay has no aliases: nothing was done")
		return err
	}
	return c.send(ctx, o)
}

func (c *call) order(args []string) (*order, error) {
	o := &order{}
	if c.name == "mailq" {
		o.mode = modeList
	}
	var plain []string
	for i, arg := range args {
		if arg == "--" || arg == "" || arg[0] != '-' && (i == 0 || !takesValue(args[i-1])) {
			plain = append(plain, args[i:]...)
			break
		}
		if !strings.HasPrefix(arg, "-q") || i > 0 && takesValue(args[i-1]) {
			plain = append(plain, arg)
			continue
		}
		if err := o.queueRun(arg[2:]); err != nil {
			return nil, err
		}
	}
	rest, err := options(sendmailOptions, plain, o.set)
	if err != nil {
		return nil, err
	}
	o.recipients = rest
	return o, nil
}

// takesValue tells whether an argument is an option whose value is the next.
func takesValue(arg string) bool {
	if len(arg) != 2 || arg[0] != '-' {
		return false
	}
	i := strings.IndexByte(sendmailOptions, arg[1])
	return i >= 0 && i+1 < len(sendmailOptions) && sendmailOptions[i+1] == ':'
}

// queueRun reads what stands behind -q.
func (o *order) queueRun(how string) error {
	o.mode = modeFlush
	switch {
	case how == "":
		o.flush = &adminv1.Selector{Everything: true}
	case how[0] == 'R' && len(how) > 1:
		o.flush = site(how[1:])
	case how[0] == 'I' && len(how) > 1:
		o.flush = &adminv1.Selector{Ids: []string{how[1:]}}
	case how[0] >= '0' && how[0] <= '9':
		return fail(exUsage, "-q%s: the relay runs its queue by itself, on the schedule queue.retry of cluster.yaml", how)
	default:
		return fail(exUsage, "-q%s: -q, -qRDOMAIN and -qIID are known", how)
	}
	return nil
}

// set reads one option. Those that say how another mail system is to do its
// work mean nothing here, and are taken as Postfix takes them.
func (o *order) set(letter byte, value string) (err error) {
	switch letter {
	case 't':
		o.header = true
	case 'i':
		o.keepDots = true
	case 'o':
		return o.old(value)
	case 'O':
		if key, v, _ := strings.Cut(value, "="); strings.EqualFold(key, "IgnoreDots") {
			o.keepDots = v == "" || strings.EqualFold(v, "true") || strings.EqualFold(v, "yes")
		}
	case 'f', 'r':
		o.from = &value
	case 'F':
		o.fullName = value
	case 'N':
		if o.notify, err = mail.ParseNotify(strings.ToUpper(value)); err != nil {
			return fail(exUsage, "-N %s: never, or a list of success, failure and delay", value)
		}
	case 'R':
		if o.ret, err = mail.ParseReturn(strings.ToUpper(value)); err != nil {
			return fail(exUsage, "-R %s: full or hdrs", value)
		}
	case 'V':
		if o.envID = value; len(value) > 100 || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fail(exUsage, "-V: an envelope ID has at most 100 printable characters")
		}
	case 'b':
		return o.run(value)
	}
	return nil
}

// old reads -oX, which sets an option by one letter.
func (o *order) old(value string) error {
	switch {
	case value == "i":
		o.keepDots = true
	case value[0] == 'r' && len(value) > 1:
		from := value[1:]
		o.from = &from
	}
	return nil
}

func (o *order) run(how string) error {
	switch how {
	case "m":
		o.mode = modeSend
	case "p":
		o.mode = modeList
	case "s":
		o.mode = modeServe
	case "i":
		o.mode = modeAliases
	case "d", "D", "l":
		return fail(exUsage, "-b%s: clrelay serve is the relay", how)
	case "v":
		return fail(exUsage, "-bv: clrelay test address ADDRESS shows where mail would go")
	default:
		return fail(exUsage, "-b%s: -bm, -bp, -bs and -bi are known", how)
	}
	return nil
}

// send takes a message from stdin and hands it to the relay.
func (c *call) send(ctx context.Context, o *order) error {
	if len(o.recipients) == 0 && !o.header {
		return fail(exUsage, "recipients are missing: name them, or give -t to take them from the header")
	}
	server := c.server()
	env := &mail.Envelope{Ret: o.ret, EnvID: o.envID}
	login, name := c.User()
	o.fullName = cmp.Or(o.fullName, name)
	if err := o.sender(env, login, server.Hostname); err != nil {
		return err
	}
	l, err := readLetter(c.Stdin, !o.keepDots)
	if err != nil {
		return err
	}
	err = c.hand(ctx, o, l, env, server)
	if closed := l.body.close(); err == nil {
		err = closed
	}
	return err
}

// sender puts the sender into the envelope: that of -f, or who calls.
func (o *order) sender(env *mail.Envelope, login, host string) error {
	from := login
	if o.from != nil {
		from = strings.TrimSpace(*o.from)
		if strings.Trim(from, "<> ") == "" {
			return nil // the null reverse-path
		}
		if list := addresses(from); len(list) == 1 {
			from = list[0]
		}
	}
	addr, err := complete(from, host)
	if err != nil {
		return fail(exDataErr, "sender %q: %w; nothing was queued", from, err)
	}
	env.From = addr
	return nil
}

// complete reads an address; one without a domain is one of this machine.
func complete(addr, host string) (mail.Address, error) {
	if !strings.Contains(addr, "@") {
		addr += "@" + host
	}
	return mail.ParseMailbox(addr, true)
}

func (c *call) hand(ctx context.Context, o *order, l *letter, env *mail.Envelope, server submit.Server) error {
	list, err := o.list(l)
	if err != nil {
		return err
	}
	for _, r := range list {
		addr, err := complete(r, server.Hostname)
		if err != nil {
			return fail(exDataErr, "recipient %q: %w; nothing was queued", r, err)
		}
		rcpt := mail.Recipient{Addr: addr, Notify: o.notify}
		if !slices.Contains(env.Recipients, rcpt) {
			env.Recipients = append(env.Recipients, rcpt)
		}
	}
	l.drop("bcc", "resent-bcc", "return-path")
	c.fill(o, l, env, server.Hostname)
	env.SMTPUTF8 = l.wide
	if l.eight {
		env.Body = mail.Body8BitMIME
	}
	_, err = submit.Send(ctx, server, env, l)
	return sendError(err)
}

// list gives the recipients of the command line and, with -t, those of the
// header; where it was sent anew (RFC 5322 3.6.6) those of the last time.
func (o *order) list(l *letter) ([]string, error) {
	var list []string
	for _, arg := range o.recipients {
		list = append(list, addresses(arg)...)
	}
	if o.header {
		fields := []string{"to", "cc", "bcc"}
		if l.has("resent-to") || l.has("resent-cc") || l.has("resent-bcc") {
			fields = []string{"resent-to", "resent-cc", "resent-bcc"}
		}
		for i := range l.head {
			if oneOf(l.head[i].name, fields) {
				list = append(list, addresses(l.head[i].value())...)
			}
		}
	}
	if len(list) == 0 {
		return nil, fail(exUsage, "no recipient is named in To, Cc or Bcc or on the command line; nothing was queued")
	}
	return list, nil
}

// fill adds the fields that every message needs and local programs leave out.
func (c *call) fill(o *order, l *letter, env *mail.Envelope, host string) {
	resent := ""
	if l.has("resent-from") || l.has("resent-to") {
		resent = "Resent-"
	}
	id := mail.NewID(c.Now()).String()
	for _, f := range []struct{ name, value string }{
		{"Message-ID", "<" + id + "@" + host + ">"},
		{"Date", c.Now().Format(time.RFC1123Z)},
		{"From", from(o, env, host)},
	} {
		if !l.has(strings.ToLower(resent + f.name)) {
			l.add(resent+f.name, f.value)
		}
	}
}

// from is the From field of a message without one.
func from(o *order, env *mail.Envelope, host string) string {
	addr, name := env.From.String(), o.fullName
	if env.From.IsNull() {
		addr, name = "MAILER-DAEMON@"+host, "Mail Delivery System"
	}
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, name)
	switch word := mime.QEncoding.Encode("utf-8", name); {
	case name == "":
		return addr
	case word != name:
		return word + " <" + addr + ">"
	case strings.ContainsAny(name, `()<>[]:;@\,."`):
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `" <` + addr + ">"
	}
	return name + " <" + addr + ">"
}

// sendError gives an error of the relay its code.
func sendError(err error) error {
	var refused *submit.Error
	if !errors.As(err, &refused) {
		if err != nil {
			return fail(exUsage, "%w; nothing was queued", err)
		}
		return nil
	}
	r := &refused.Reply
	switch class, subject := r.Enhanced[0], [2]int{int(r.Enhanced[1]), int(r.Enhanced[2])}; {
	case !r.Permanent() || refused.Unsure:
		return fail(exTempFail, "%w", err)
	case class == 5 && subject[0] == 1:
		return fail(exNoUser, "%w", err)
	case class == 5 && subject[0] == 7:
		return fail(exNoPerm, "%w", err)
	case class == 5 && (subject[0] == 6 || subject == [2]int{5, 2} || subject == [2]int{3, 4}):
		return fail(exDataErr, "%w", err) // the content, its form, its size
	}
	return fail(exUnavailable, "%w", err)
}

// serve lets a local program speak SMTP on stdin and stdout with the relay.
func (c *call) serve(ctx context.Context) error {
	addr := c.server().Addr
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return fail(exTempFail, "the relay at %s cannot be reached: %w; nothing was queued", addr, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // it ends both copies
	defer stop()
	go func() {
		_, _ = io.Copy(conn, c.Stdin) // the relay sees the end, and ends the conversation
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(c.Stdout, conn)
	_ = conn.Close() // nothing more is to come
	if err != nil {
		return fail(exIOErr, "the conversation was cut off: %w", err)
	}
	return nil
}
