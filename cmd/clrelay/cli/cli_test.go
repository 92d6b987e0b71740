package cli_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/term"

	"github.com/clrelay/clrelay/cmd/clrelay/cli"
	offline "github.com/clrelay/clrelay/cmd/clrelay/rescue"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/rules"
	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/metrics"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

var update = flag.Bool("update", false, "write what the scripts compare with anew")

// now is what the commands take for the time.
func now() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

// TestMain lets the scripts run clrelay as a process of its own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"clrelay": func() {
		app := &cli.App{
			Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Now: now, Version: "v0.0-test",
			Terminal: func() bool { return term.IsTerminal(int(os.Stdin.Fd())) },
		}
		root := cli.NewRoot(app)
		console := cmdline.Console{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Terminal: app.Terminal, Now: now}
		for _, c := range root.Commands() {
			if c.Name() == "cluster" {
				c.AddCommand(offline.Commands(console, app.With)...)
			}
		}
		root.AddCommand(app.SpoolCommand(cli.SpoolTools{Check: check, Export: export}))
		os.Exit(cli.Execute(context.Background(), app, root, os.Args[1:]))
	}})
}

// TestScripts runs testdata/*.txtar against a relay with an invented queue.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			path := filepath.Join(env.WorkDir, admin.SocketName)
			env.Setenv("CLRELAY_SOCKET", path)
			l, err := admin.Listen(path)
			if err != nil {
				return err
			}
			o := adminOptions(newRelay())
			if err := keepsAudits(env, &o, "ALONE"); err != nil {
				return err
			}
			o.Traces, o.Content = traces(env), contents{}
			srv := admin.New(o)
			served := make(chan error, 1)
			go func() { served <- srv.Serve(l) }()
			env.Defer(func() {
				srv.Shutdown(context.Background())
				if err := <-served; err != nil {
					t.Error(err)
				}
			})
			if err := serveJobs(t, env); err != nil {
				return err
			}
			return serveCluster(env, func(err error) {
				if err != nil {
					t.Error(err)
				}
			})
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits, "deaf": deaf},
	})
}

func adminOptions(r *relay) admin.Options {
	return admin.Options{Queue: r, Messages: r, Node: r, Configs: oneFile{}, Rules: &ruleList{}, Services: append(everyday(), suppressing()), Metrics: metrics.New().Node, Now: now, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

// exits CODE clrelay ARGS... runs a command that must end with that code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		got = string(rune('0'+exit.ExitCode()/100)) + string(rune('0'+exit.ExitCode()/10%10)) + string(rune('0'+exit.ExitCode()%10))
		got = strings.TrimLeft(got, "0")
	} else {
		ts.Check(err)
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// deaf FILE makes a socket that nobody listens on, as a killed relay leaves it.
func deaf(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: ts.MkAbs(args[0]), Net: "unix"})
	ts.Check(err)
	l.SetUnlinkOnClose(false)
	ts.Check(l.Close())
}

// check finds what the name of the folder says.
func check(_ context.Context, dir string) (cli.SpoolReport, error) {
	r := cli.SpoolReport{Dir: dir, Files: 3, Messages: 1204, Recipients: 1500, Bytes: 40 << 20}
	switch dir {
	case "nowhere":
		return cli.SpoolReport{}, &fs.PathError{Op: "open", Path: dir, Err: fs.ErrNotExist}
	case "damaged":
		r.Damage = []cli.SpoolDamage{
			{File: "damaged/log/000002", Offset: 8192, ID: id(1).String(), What: "bad checksum"},
			{File: "damaged/log/000003", What: "empty file"},
		}
	}
	return r, nil
}

func export(ctx context.Context, dir, out string) (cli.SpoolReport, error) {
	if out == "full" {
		return cli.SpoolReport{}, fmt.Errorf("%s is not empty", out)
	}
	return check(ctx, dir)
}

// relay is an invented one.
type relay struct {
	mu      sync.Mutex
	entries []admin.Entry
	conf    *configurations // nil when it is alone
}

func id(n byte) mail.ID { return mail.ID{1, 0x93, 0x5a, 0x1b, 0x2c, n, 15: n} }

func newRelay() *relay {
	campus := mail.Address{Local: "payroll", Domain: "example.edu"}
	return &relay{entries: []admin.Entry{
		{ID: id(1), Node: "mx1", From: campus, To: mail.Address{Local: "a.ng", Domain: "partner.example"}, State: mail.StateDeferred,
			Size: 49356, Arrived: now().Add(-3*time.Hour - 12*time.Minute), Attempts: 4, Next: now().Add(5 * time.Minute),
			Client: mail.Client{Addr: netip.MustParseAddr("10.3.1.8"), Sender: "payroll"}, Lane: "smarthost:mx.partner.example:587;tls=verify",
			LastReply: *mail.NewReply(454, "4.7.0", "TLS not available\ndue to local problem \x1b[31m")},
		{ID: id(1), Node: "mx1", From: campus, To: mail.Address{Local: "two words", Domain: "Sub.Partner.example"}, State: mail.StateHeld,
			Size: 49356, Arrived: now().Add(-3*time.Hour - 12*time.Minute)},
		{ID: id(2), Node: "mx1", To: mail.Address{Local: "jörg", Domain: "münchen.example"}, State: mail.StateActive,
			Size: 812, Arrived: now().Add(-400 * time.Millisecond)},
	}}
}

func (r *relay) Summary(context.Context) (admin.Summary, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, seen := admin.Summary{}, map[mail.ID]bool{}
	for _, e := range r.entries {
		switch e.State {
		case mail.StateActive:
			s.Active++
		case mail.StateDeferred:
			s.Deferred++
		case mail.StateHeld:
			s.Held++
		case mail.StateTrashed:
			s.Trashed++
			continue
		}
		seen[e.ID] = true
	}
	s.Messages = int64(len(seen))
	if s.Messages > 0 {
		s.Oldest = now().Add(-time.Hour - 1234*time.Millisecond)
	}
	return s, nil
}

func (r *relay) List(_ context.Context, sel *admin.Selector, visit func(*admin.Entry) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.entries {
		if e := r.entries[i]; sel.Match(&e) {
			if err := visit(&e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *relay) Scan(ctx context.Context, sel *admin.Selector, visit func(*admin.Entry) error) error {
	return r.List(ctx, sel, func(e *admin.Entry) error {
		e.LastReply = mail.Reply{}
		return visit(e)
	})
}

func (r *relay) Change(_ context.Context, c *admin.Change) (admin.Changed, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out admin.Changed
	picked := func(e admin.Entry) bool { return c.Selector.Match(&e) && c.Action.Applies(e.State) }
	seen := map[mail.ID]bool{}
	for _, e := range r.entries {
		if !picked(e) {
			continue
		}
		out.Recipients++
		if !seen[e.ID] {
			seen[e.ID] = true
			out.Messages++
			out.Bytes += e.Size
			out.Samples = append(out.Samples, e.ID)
		}
		if out.Oldest.IsZero() || e.Arrived.Before(out.Oldest) {
			out.Oldest = e.Arrived
		}
		if c.Reason == "busy" {
			out.Failed++
		}
	}
	if c.Expect != nil && *c.Expect != out.Recipients {
		return admin.Changed{}, &admin.ExpectError{Want: *c.Expect, Got: out.Recipients}
	}
	if c.Action == admin.Drop && !c.Now {
		out.Kept = 24 * time.Hour
	}
	if c.DryRun || c.Reason == "busy" {
		return out, nil
	}
	switch {
	case c.Action == admin.Drop && c.Now, c.Action == admin.Bounce:
		r.entries = slices.DeleteFunc(r.entries, picked)
	default:
		for i := range r.entries {
			if e := &r.entries[i]; picked(*e) {
				r.told(e, c)
			}
		}
	}
	return out, nil
}

// told changes a recipient.
func (r *relay) told(e *admin.Entry, c *admin.Change) {
	switch c.Action {
	case admin.Reroute:
		e.Route = c.To
	case admin.Expire:
		e.Expires = c.At
	case admin.Drop:
		e.State, e.Next = mail.StateTrashed, now().Add(24*time.Hour)
	default:
		e.State, e.Next = map[admin.Action]mail.State{admin.Hold: mail.StateHeld}[c.Action], time.Time{}
	}
}

// ruleList keeps rules under IDs that are known.
type ruleList struct {
	mu   sync.Mutex
	list []*adminv1.Rule
}

func (l *ruleList) List(context.Context) ([]*adminv1.Rule, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list), nil
}

func (l *ruleList) Put(_ context.Context, r *adminv1.Rule) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Id, r.By = fmt.Sprintf("r-%d", len(l.list)+1), "uid=0"
	l.list = append(l.list, r)
	return nil
}

func (l *ruleList) Delete(_ context.Context, id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.list)
	l.list = slices.DeleteFunc(l.list, func(r *adminv1.Rule) bool { return r.GetId() == id })
	if len(l.list) == n {
		return rules.ErrNoRule
	}
	return nil
}

func (r *relay) Show(_ context.Context, want mail.ID) (*admin.Message, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := &admin.Message{Node: "mx1", Envelope: &mail.Envelope{ID: want}}
	for _, e := range r.entries {
		if e.ID != want {
			continue
		}
		m.Size = e.Size
		m.Envelope.From, m.Envelope.Arrived = e.From, e.Arrived
		m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{Addr: e.To, Notify: mail.NotifyFailure | mail.NotifyDelay, ORcpt: "x@y"})
		m.Recipients = append(m.Recipients, admin.Recipient{State: e.State, Attempts: e.Attempts, Next: e.Next, LastReply: e.LastReply, Remote: "mx.partner.example[203.0.113.9]:25"})
	}
	if len(m.Recipients) == 0 {
		return nil, admin.ErrNotFound
	}
	m.Envelope.Client = mail.Client{Addr: netip.MustParseAddr("10.3.1.8"), Helo: "app.example.edu", Protocol: "ESMTPS", TLS: "TLSv1.3 TLS_AES_128_GCM_SHA256", Sender: "campus"}
	m.Envelope.EnvID, m.Envelope.Ret = "QQ314159", mail.ReturnHeaders
	m.Envelope.Hold = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)
	m.Envelope.By = mail.By{At: m.Envelope.Hold.Add(time.Hour), Return: true}
	return m, nil
}

func (r *relay) Status(context.Context) admin.Status {
	s := admin.Status{Node: "mx1", Version: "v0.0-test", Started: now(), Reason: "the disk is full", SMTP: []string{"127.0.0.1:2525"}}
	if r.conf != nil {
		s.ConfigVersion, s.ConfigRejected, s.ConfigError = r.conf.inForce()
	}
	return s
}
