package inspect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
)

// Message is the form of an exported envelope, ID.json beside the content in
// ID.eml. Text of foreign origin that is not UTF-8 comes with U+FFFD in it.
type Message struct {
	ID         string      `json:"id"`
	From       string      `json:"from"` // "" is the null reverse-path
	Arrived    time.Time   `json:"arrived"`
	Size       int64       `json:"size"`
	Recipients []Recipient `json:"recipients"`
	Body       string      `json:"body"`
	SMTPUTF8   bool        `json:"smtputf8"`
	RequireTLS bool        `json:"require_tls"`
	Ret        string      `json:"ret"`
	EnvID      string      `json:"envid"`
	Client     Client      `json:"client"`
	Damage     []string    `json:"damage"` // empty: all is well
}

// Recipient is one recipient of an exported envelope.
type Recipient struct {
	Rcpt        string     `json:"rcpt"`
	State       string     `json:"state"`
	Attempts    uint32     `json:"attempts"`
	NextAttempt *time.Time `json:"next_attempt"`
	LastReply   string     `json:"last_reply"`
	Remote      string     `json:"remote"`
	Notify      string     `json:"notify"`
	ORcpt       string     `json:"orcpt"`
}

// Client tells where an exported message came from.
type Client struct {
	Addr     string `json:"addr"`
	Helo     string `json:"helo"`
	Protocol string `json:"protocol"`
	TLS      string `json:"tls"`
	Sender   string `json:"sender"`
}

// Export writes each unfinished message of a data directory into the directory
// to, which it makes if need be: the content, octet by octet, as ID.eml, the
// envelope with the state of each recipient as ID.json. Existing files are not
// overwritten. Of damaged content it writes what comes before the damage, and
// says so in ID.json and in the report.
func Export(fsys vfs.FS, dir, to string) (Report, error) {
	l, err := open(fsys, dir)
	if err != nil {
		return Report{}, err
	}
	if err := fsys.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return l.end(fmt.Errorf("spool: making %s: %w", to, err))
	}
	var failed error
	err = l.s.Each(func(m *spool.Message, env *mail.Envelope, states []spool.RecipientState) {
		if failed == nil {
			l.report.Bytes += m.Size()
			failed = l.export(fsys, to, m, env, states)
		}
	})
	return l.end(errors.Join(err, failed))
}

// export writes one message; the error is one of writing.
func (l *look) export(fsys vfs.FS, to string, m *spool.Message, env *mail.Envelope, states []spool.RecipientState) error {
	out := describe(m, env)
	note := func(err error) {
		l.finding(m.ID(), err)
		out.Damage = append(out.Damage, err.Error())
	}
	if full, err := l.s.States(m); err != nil {
		note(err)
	} else {
		states = full
	}
	for i, r := range env.Recipients {
		out.Recipients = append(out.Recipients, recipient(r, states[i]))
	}
	base := filepath.Join(to, m.ID().String())
	var damage error
	err := write(fsys, base+".eml", func(w io.Writer) error {
		damage = l.content(m, w)
		return nil
	})
	if err != nil {
		return err
	}
	if damage != nil {
		note(damage)
	}
	return write(fsys, base+".json", func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(out)
	})
}

func describe(m *spool.Message, env *mail.Envelope) *Message {
	out := &Message{
		ID: m.ID().String(), From: env.From.String(), Arrived: env.Arrived.UTC(), Size: m.Size(),
		Body: env.Body.String(), SMTPUTF8: env.SMTPUTF8, RequireTLS: env.RequireTLS, Ret: env.Ret.String(), EnvID: env.EnvID,
		Client: Client{Helo: env.Client.Helo, Protocol: env.Client.Protocol, TLS: env.Client.TLS, Sender: env.Client.Sender},
		Damage: []string{},
	}
	if env.Client.Addr.IsValid() {
		out.Client.Addr = env.Client.Addr.String()
	}
	return out
}

func recipient(r mail.Recipient, st spool.RecipientState) Recipient {
	out := Recipient{
		Rcpt: r.Addr.String(), State: st.State.String(), Attempts: st.Attempts,
		LastReply: "", Remote: st.Remote, Notify: r.Notify.String(),
	}
	if st.Reply.Code != 0 {
		out.LastReply = st.Reply.Line()
	}
	if !st.Next.IsZero() {
		next := st.Next.UTC()
		out.NextAttempt = &next
	}
	if r.ORcptType != "" {
		out.ORcpt = r.ORcptType + ";" + r.ORcpt
	}
	return out
}

// write makes a file that did not exist.
func write(fsys vfs.FS, name string, fill func(io.Writer) error) error {
	f, err := fsys.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	w := &writer{f: f}
	err = errors.Join(fill(w), w.err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("spool: writing %s: %w", name, err)
	}
	return nil
}

// writer writes one piece after another and remembers its first error.
type writer struct {
	f   vfs.File
	off int64
	err error
}

// Write is of io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.f.WriteAt(p, w.off)
	w.off += int64(n)
	w.err = err
	return n, err
}
