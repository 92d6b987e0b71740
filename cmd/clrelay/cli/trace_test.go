package cli_test

import (
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/clrelay/clrelay/internal/admin/content"
	"github.com/clrelay/clrelay/internal/admin/trace"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/tracelog"
	"github.com/clrelay/clrelay/internal/tracelog/record"
	"github.com/clrelay/clrelay/internal/vfs"
)

// traces are those of the invented relay: the message of id(1), which is
// queued for one recipient, one that is gone, its report, and a refusal.
func traces(env *testscript.Env) trace.Sources {
	var clock atomic.Int64
	at := func(ago time.Duration) { clock.Store(now().Add(-ago).UnixMicro()) }
	at(0)
	l := tracelog.Open(tracelog.Options{
		Dir: "trace", FS: vfs.NewMem(), Keep: time.Hour, MaxSize: 1 << 20, Now: func() time.Time { return time.UnixMicro(clock.Load()) },
		Copies: func(uint64) []string { return []string{"mx1", "mx2"} },
	})
	env.Defer(func() { _ = l.Close() })
	address := func(local, domain string) mail.Address { return mail.Address{Local: local, Domain: domain} }
	sent := &mail.Envelope{
		ID: id(1), From: address("payroll", "example.edu"), MessageID: "20261123.77@payroll.example.edu",
		Recipients: []mail.Recipient{{Addr: address("a.ng", "partner.example")}, {Addr: address("two words", "Sub.Partner.example")}},
		Client:     mail.Client{Addr: netip.MustParseAddr("10.3.1.8"), Helo: "app.example.edu", Protocol: "ESMTPS", TLS: "TLSv1.3 TLS_AES_128_GCM_SHA256", Sender: "campus"},
	}
	fate := func(kind record.Kind, env *mail.Envelope, rcpt, attempt int, reply *mail.Reply, more func(*tracelog.Fate)) {
		f := &tracelog.Fate{Kind: kind, ID: env.ID, From: env.From, To: env.Recipients[rcpt].Addr, Attempt: attempt, Outcome: &mail.Outcome{}}
		if reply != nil {
			f.Outcome = &mail.Outcome{Reply: *reply, Remote: "mx.partner.example[203.0.113.9]:25"}
		}
		more(f)
		l.Recipient(f)
	}
	nothing := func(*tracelog.Fate) {}
	at(3*time.Hour + 12*time.Minute)
	l.Accepted(sent, 49356, 3, 21*time.Millisecond)
	at(3 * time.Hour)
	fate(record.Held, sent, 1, 0, nil, func(f *tracelog.Fate) { f.Reason = "INC-4411" })
	fate(record.Deferred, sent, 0, 1, mail.NewReply(454, "4.7.0", "TLS not available\ndue to local problem \x1b[31m"), func(f *tracelog.Fate) { f.Next = now().Add(5 * time.Minute) })
	at(2 * time.Hour)
	l.TakenOver(sent, 49356, 3)

	gone := &mail.Envelope{ID: id(7), From: address("payroll", "example.edu"), Recipients: []mail.Recipient{{Addr: address("b", "old.example")}, {Addr: address("c", "new.example")}}}
	at(90 * time.Minute)
	l.Accepted(gone, 812, 3, 2*time.Millisecond)
	fate(record.Bounced, gone, 0, 1, mail.NewReply(550, "5.1.1", "nobody"), nothing)
	l.Reported(id(8), gone.ID, "failure")
	at(89 * time.Minute)
	fate(record.Delivered, gone, 1, 2, mail.NewReply(250, "2.0.0", "Ok: queued as 4Xy7"), func(f *tracelog.Fate) { f.Outcome.TLS, f.Delay = "TLSv1.3 verified", time.Minute })
	at(time.Hour)
	l.Rejected(&mail.Client{Addr: netip.MustParseAddr("192.0.2.66"), Helo: "evil.example", Protocol: "ESMTP"}, "payroll@example.edu", "victim@elsewhere.example",
		mail.NewReply(550, "5.7.1", "Relaying denied"))
	at(0)
	return trace.Sources{Log: l, Tap: trace.NewTap(), Node: "mx1"}
}

// contents has the content of one message.
type contents struct{}

func (contents) Open(want mail.ID) (io.ReadCloser, int64, error) {
	if want != id(1) {
		return nil, 0, content.ErrNotFound
	}
	text := "Subject: x\r\nX: " + strings.Repeat("y", 70_000) + "\r\n\r\nbody\r\n\r\nend\r\n"
	return io.NopCloser(strings.NewReader(text)), int64(len(text)), nil
}
