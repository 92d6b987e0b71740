package admin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var arrived = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

func id(n byte) mail.ID { return mail.ID{1, 0x93, 0, 0, 0, 0, 15: n} }

// fakeQueue holds entries in memory and plays every other part as well.
type fakeQueue struct {
	entries []admin.Entry
	last    *admin.Change
	err     error
	panics  bool
}

func (q *fakeQueue) Summary(context.Context) (admin.Summary, error) {
	if q.panics {
		panic("fake")
	}
	return admin.Summary{Messages: 2, Active: 1, Deferred: 2, Held: 3, Oldest: time.Now().Add(-time.Hour)}, q.err
}

func (q *fakeQueue) List(_ context.Context, sel *admin.Selector, visit func(*admin.Entry) error) error {
	if q.panics {
		panic("fake")
	}
	for i := range q.entries {
		if e := q.entries[i]; sel.Match(&e) {
			if err := visit(&e); err != nil {
				return err
			}
		}
	}
	return q.err
}

func (q *fakeQueue) Scan(ctx context.Context, sel *admin.Selector, visit func(*admin.Entry) error) error {
	return q.List(ctx, sel, func(e *admin.Entry) error {
		e.LastReply = mail.Reply{}
		return visit(e)
	})
}

func (q *fakeQueue) Change(_ context.Context, c *admin.Change) (admin.Changed, error) {
	q.last = c
	return admin.Changed{Messages: 1, Recipients: 2, Bytes: 3, Oldest: arrived, Samples: []mail.ID{id(1)}, Failed: 4}, q.err
}

func (q *fakeQueue) Show(_ context.Context, want mail.ID) (*admin.Message, error) {
	if want != id(1) {
		return nil, admin.ErrNotFound
	}
	return &admin.Message{Node: "mx1", Size: 7, Envelope: &mail.Envelope{
		ID: want, From: mail.Address{Local: "a\xff", Domain: "x.example"}, Arrived: arrived, Body: mail.Body8BitMIME,
		Client:     mail.Client{Addr: netip.MustParseAddr("192.0.2.1"), Helo: "h\xff"},
		Recipients: []mail.Recipient{{Addr: mail.Address{Local: "b", Domain: "Y.example"}, Notify: mail.NotifyNever}},
	}, Recipients: []admin.Recipient{{State: mail.StateDeferred, Attempts: 2, LastReply: mail.Reply{Code: 451, Text: "caf\xe9"}}}}, nil
}

func (q *fakeQueue) Status(context.Context) admin.Status {
	return admin.Status{Node: "mx1", Version: "v1", Ready: true, SMTP: []string{":25"}}
}

// lockedBuffer collects the log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start serves q on a socket and connects to it.
func start(t *testing.T, q *fakeQueue) (*grpc.ClientConn, *lockedBuffer) {
	t.Helper()
	log := &lockedBuffer{}
	path := filepath.Join(t.TempDir(), admin.SocketName)
	l, err := admin.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	srv := admin.New(admin.Options{Queue: q, Messages: q, Node: q, Metrics: metrics.New().Node,
		Log: slog.New(slog.NewTextHandler(log, nil))})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///admin", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return admin.Dial(ctx, path) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		srv.Shutdown(t.Context())
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return conn, log
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("the call ends with %v, want %v", err, want)
	}
}

func TestErrorsTravelAsCodes(t *testing.T) {
	q := &fakeQueue{}
	conn, _ := start(t, q)
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{&admin.ExpectError{Want: 1, Got: 2}, codes.FailedPrecondition},
		{fmt.Errorf("spool: %w", admin.ErrNotFound), codes.NotFound},
		{fmt.Errorf("%w: stopping", admin.ErrUnavailable), codes.Unavailable},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{errors.New("bad \xff octets"), codes.Unknown},
	} {
		q.err = c.err
		_, err := adminv1.NewQueueServiceClient(conn).Summary(t.Context(), &adminv1.SummaryRequest{})
		wantCode(t, err, c.want)
	}
}

func TestSelectorIsNeededToChange(t *testing.T) {
	q := &fakeQueue{}
	conn, _ := start(t, q)
	client := adminv1.NewQueueServiceClient(conn)
	for _, c := range []struct {
		name string
		sel  *adminv1.Selector
		want codes.Code
	}{
		{"none", nil, codes.InvalidArgument},
		{"empty", &adminv1.Selector{}, codes.InvalidArgument},
		{"everything and more", &adminv1.Selector{Everything: true, Domains: []string{"a"}}, codes.InvalidArgument},
		{"final state", &adminv1.Selector{States: []adminv1.RecipientState{4}}, codes.InvalidArgument},
		{"pattern in a domain", &adminv1.Selector{Domains: []string{"a*b"}}, codes.InvalidArgument},
		{"empty pattern", &adminv1.Selector{Froms: []string{""}}, codes.InvalidArgument},
		{"too many", &adminv1.Selector{Rcpts: make([]string, 1001)}, codes.InvalidArgument},
		{"no ID", &adminv1.Selector{Ids: []string{"xyz"}}, codes.NotFound},
		{"unknown ID", &adminv1.Selector{Ids: []string{id(1).String(), id(2).String()}}, codes.NotFound},
		{"known ID", &adminv1.Selector{Ids: []string{id(1).String()}}, codes.OK},
		{"everything", &adminv1.Selector{Everything: true}, codes.OK},
	} {
		t.Run(c.name, func(t *testing.T) {
			q.last = nil
			_, err := client.Drop(t.Context(), &adminv1.DropRequest{Change: &adminv1.Change{Selector: c.sel}})
			wantCode(t, err, c.want)
			if (q.last != nil) != (c.want == codes.OK) {
				t.Errorf("the queue was asked: %v", q.last != nil)
			}
		})
	}
}

func TestChangeReachesTheQueueAndTheLog(t *testing.T) {
	q := &fakeQueue{}
	conn, log := start(t, q)
	expect := int64(2)
	res, err := adminv1.NewQueueServiceClient(conn).Bounce(t.Context(), &adminv1.BounceRequest{Change: &adminv1.Change{
		Selector: &adminv1.Selector{Domains: []string{"Example.org"}}, DryRun: true, Expect: &expect, Reason: "INC-1\nforged=line"}})
	if err != nil {
		t.Fatal(err)
	}
	if q.last.Action != admin.Bounce || !q.last.DryRun || *q.last.Expect != 2 || q.last.Reason != "INC-1\nforged=line" {
		t.Errorf("the queue was given %+v", q.last)
	}
	if !q.last.Selector.Match(&admin.Entry{To: mail.Address{Local: "x", Domain: "example.ORG"}}) {
		t.Error("the selector does not match its own domain")
	}
	r := res.GetResult()
	if r.GetMessages() != 1 || r.GetRecipients() != 2 || r.GetBytes() != 3 || r.GetFailed() != 4 ||
		!r.GetOldest().AsTime().Equal(arrived) || len(r.GetSamples()) != 1 || r.GetSamples()[0] != id(1).String() {
		t.Errorf("the answer is %v", r)
	}
	for _, want := range []string{"admin change", "QueueService/Bounce", "example.org", `reason="INC-1\nforged=line"`, fmt.Sprintf("uid=%d", os.Getuid())} {
		if !strings.Contains(strings.ToLower(log.String()), strings.ToLower(want)) {
			t.Errorf("the log %q does not say %q", log, want)
		}
	}
}

func TestListStreamsAndStops(t *testing.T) {
	q := &fakeQueue{}
	for i := range 1000 {
		q.entries = append(q.entries, admin.Entry{ID: id(1), To: mail.Address{Local: fmt.Sprint(i), Domain: "x.example"}, Arrived: arrived})
	}
	conn, _ := start(t, q)
	for _, c := range []struct{ limit, want int }{{0, 1000}, {1, 1}, {256, 256}, {257, 257}, {2000, 1000}} {
		stream, err := adminv1.NewQueueServiceClient(conn).List(t.Context(), &adminv1.ListRequest{Limit: int64(c.limit)})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for {
			batch, err := stream.Recv()
			if err != nil {
				break
			}
			for _, e := range batch.GetEntries() {
				if want := fmt.Sprintf("%d@x.example", n); e.GetRcpt() != want {
					t.Fatalf("entry %d is %s", n, e.GetRcpt())
				}
				n++
			}
		}
		if n != c.want {
			t.Errorf("limit %d gives %d entries, want %d", c.limit, n, c.want)
		}
	}
}

// Octets that are not UTF-8 come with mail, and must not stop the answer.
func TestShowTakesAnyOctets(t *testing.T) {
	conn, _ := start(t, &fakeQueue{})
	client := adminv1.NewMessageServiceClient(conn)
	res, err := client.Show(t.Context(), &adminv1.ShowRequest{Id: strings.ToLower(id(1).String())})
	if err != nil {
		t.Fatal(err)
	}
	m := res.GetMessage()
	if m.GetClient().GetHelo() != "h\ufffd" || m.GetBody() != "8BITMIME" || m.GetClient().GetAddr() != "192.0.2.1" {
		t.Errorf("the message is %v", m)
	}
	if r := m.GetRecipients()[0]; r.GetLastReply() != "451 caf\ufffd" || r.GetNotify() != "NEVER" || r.GetDomain() != "y.example" ||
		r.GetState() != adminv1.RecipientState_RECIPIENT_STATE_DEFERRED || r.GetNextAttempt() != nil {
		t.Errorf("the recipient is %v", r)
	}
	for _, bad := range []string{"", "xyz", id(2).String()} {
		_, err := client.Show(t.Context(), &adminv1.ShowRequest{Id: bad})
		wantCode(t, err, codes.NotFound)
	}
}

func TestPanicEndsOneCallAlone(t *testing.T) {
	q := &fakeQueue{panics: true}
	conn, log := start(t, q)
	client := adminv1.NewQueueServiceClient(conn)
	_, err := client.Summary(t.Context(), &adminv1.SummaryRequest{})
	wantCode(t, err, codes.Internal)
	stream, err := client.List(t.Context(), &adminv1.ListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantCode(t, err, codes.Internal)
	if strings.Contains(fmt.Sprint(err), "fake") || !strings.Contains(log.String(), "panic=fake") {
		t.Errorf("the caller hears %v, the log says %s", err, log)
	}
	q.panics = false
	_, err = client.Summary(t.Context(), &adminv1.SummaryRequest{})
	wantCode(t, err, codes.OK)
}

func TestStatusAndHealth(t *testing.T) {
	conn, _ := start(t, &fakeQueue{})
	res, err := adminv1.NewNodeServiceClient(conn).Status(t.Context(), &adminv1.StatusRequest{})
	if err != nil || res.GetNode() != "mx1" || !res.GetReady() || res.GetStarted() != nil {
		t.Errorf("status is %v, %v", res, err)
	}
	health, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || health.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health is %v, %v", health, err)
	}
}

func TestSocket(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "s"), filepath.Join(long, admin.SocketName)} {
		l, err := admin.Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("the socket's mode is %v", info.Mode())
		}
		again, err := admin.Listen(path) // as after kill -9: the file is there
		if err != nil {
			t.Fatalf("a socket left behind: %v", err)
		}
		conn, err := admin.Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []interface{ Close() error }{conn, again, l} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("Close leaves the socket: %v", err)
		}
	}
}

func TestListenKeepsForeignFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Listen(path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("Listen on a file gives %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "x" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}

func TestSelectorMatches(t *testing.T) {
	entry := admin.Entry{ID: id(1), From: mail.Address{Local: "News", Domain: "lists.example"}, State: mail.StateDeferred,
		To: mail.Address{Local: "Jo.Doe", Domain: "Mail.Example.org"}, Arrived: arrived}
	deferred, held := adminv1.RecipientState_RECIPIENT_STATE_DEFERRED, adminv1.RecipientState_RECIPIENT_STATE_HELD
	for _, c := range []struct {
		name string
		sel  *adminv1.Selector
		want bool
	}{
		{"nil", nil, true},
		{"id", &adminv1.Selector{Ids: []string{id(2).String(), id(1).String()}}, true},
		{"other id", &adminv1.Selector{Ids: []string{id(2).String()}}, false},
		{"domain", &adminv1.Selector{Domains: []string{"x", "mail.EXAMPLE.org"}}, true},
		{"domain above", &adminv1.Selector{Domains: []string{"example.org"}}, false},
		{"below", &adminv1.Selector{Domains: []string{"*.example.org"}}, true},
		{"below itself", &adminv1.Selector{Domains: []string{"*.mail.example.org"}}, false},
		{"end of a label", &adminv1.Selector{Domains: []string{"*.xample.org"}}, false},
		{"rcpt", &adminv1.Selector{Rcpts: []string{"jo.*@*.example.*"}}, true},
		{"rcpt one", &adminv1.Selector{Rcpts: []string{"jo?doe@mail.example.org"}}, true},
		{"rcpt none", &adminv1.Selector{Rcpts: []string{"jo?@*"}}, false},
		{"from", &adminv1.Selector{Froms: []string{"*@LISTS.example"}}, true},
		{"null sender", &adminv1.Selector{Froms: []string{"<>"}}, false},
		{"state", &adminv1.Selector{States: []adminv1.RecipientState{held, deferred}}, true},
		{"other state", &adminv1.Selector{States: []adminv1.RecipientState{held}}, false},
		{"before", &adminv1.Selector{ArrivedBefore: timestamppb.New(arrived.Add(1))}, true},
		{"not before", &adminv1.Selector{ArrivedBefore: timestamppb.New(arrived)}, false},
		{"after", &adminv1.Selector{ArrivedAfter: timestamppb.New(arrived)}, true},
		{"not after", &adminv1.Selector{ArrivedAfter: timestamppb.New(arrived.Add(1))}, false},
		{"all must hold", &adminv1.Selector{Domains: []string{"mail.example.org"}, Rcpts: []string{"nobody@*"}}, false},
	} {
		sel, err := admin.NewSelector(c.sel)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := sel.Match(&entry); got != c.want {
			t.Errorf("%s: matches %v, want %v", c.name, got, c.want)
		}
	}
	sel, err := admin.NewSelector(&adminv1.Selector{Froms: []string{"<>"}})
	if err != nil || !sel.Match(&admin.Entry{}) {
		t.Errorf("<> does not match the null sender (%v)", err)
	}
}
