// Package bundle answers the admin API's DebugService: it gathers what a
// developer needs to understand a fault, without what is secret or somebody
// else's.
package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/mask"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	// piece is how many octets travel together.
	piece = 128 << 10
	// nodeWait is how long another node may take.
	nodeWait = time.Minute
	// maxFile bounds one file.
	maxFile = 16 << 20
)

// Source makes one file of a bundle.
type Source struct {
	Name string
	Make func(ctx context.Context) ([]byte, error)
	Raw  bool // it is no text, and holds nothing to be masked
}

// Service is the DebugService of a node.
type Service struct {
	adminv1.UnimplementedDebugServiceServer
	Node    string
	Sources []Source
	Levels  *Levels
	Fleet   fleet.Fleet
}

// Bundle is of DebugService.
func (s *Service) Bundle(req *adminv1.BundleRequest, stream grpc.ServerStreamingServer[adminv1.BundleResponse]) error {
	ctx := stream.Context()
	m := mask.New(req.GetMaskKey())
	if !req.GetFull() && len(req.GetMaskKey()) < 16 {
		return admin.InvalidError("a mask key of at least 16 octets is needed")
	}
	for _, src := range s.Sources {
		text, err := src.Make(ctx)
		name := s.Node + "/" + src.Name
		if err != nil {
			name, text = name+".error", []byte(err.Error()+"\n")
		}
		if !src.Raw || err != nil {
			text = []byte(mask.Secrets(string(text)))
			if !req.GetFull() {
				text = []byte(m.Text(string(text)))
			}
		}
		if err := send(stream, name, text[:min(len(text), maxFile)]); err != nil {
			return err
		}
	}
	var missing []string
	theirs := &adminv1.BundleRequest{Full: req.GetFull(), Local: true, MaskKey: req.GetMaskKey()}
	for _, p := range s.Fleet.Others(ctx, req.GetLocal()) { // one after the other: a bundle is large
		if err := pass(ctx, p, theirs, stream); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			missing = append(missing, p.Name)
		}
	}
	if len(missing) > 0 {
		return stream.Send(&adminv1.BundleResponse{MissingNodes: fleet.Sorted(missing)})
	}
	return nil
}

func send(stream grpc.ServerStreamingServer[adminv1.BundleResponse], name string, text []byte) error {
	for {
		n := min(piece, len(text))
		if err := stream.Send(&adminv1.BundleResponse{Name: name, Data: text[:n]}); err != nil {
			return err
		}
		if text = text[n:]; len(text) == 0 {
			return nil
		}
	}
}

// pass hands another node's files on.
func pass(ctx context.Context, p fleet.Peer, req *adminv1.BundleRequest, to grpc.ServerStreamingServer[adminv1.BundleResponse]) error {
	ctx, cancel := context.WithTimeout(ctx, nodeWait)
	defer cancel()
	from, err := adminv1.NewDebugServiceClient(p.Conn).Bundle(ctx, req)
	if err != nil {
		return err
	}
	for {
		r, err := from.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case !strings.HasPrefix(r.GetName(), p.Name+"/"):
			return fmt.Errorf("bundle: %s sent a file %q", p.Name, r.GetName())
		}
		if err := to.Send(r); err != nil {
			return err
		}
	}
}

// cpuMost bounds a CPU profile.
const cpuMost = time.Minute

// Profile is of DebugService.
func (s *Service) Profile(req *adminv1.ProfileRequest, stream grpc.ServerStreamingServer[adminv1.ProfileResponse]) error {
	var out bytes.Buffer
	switch p := pprof.Lookup(req.GetKind()); {
	case req.GetKind() == "cpu":
		span := req.GetSpan().AsDuration()
		if span < time.Second || span > cpuMost {
			return admin.InvalidError(fmt.Sprintf("a CPU profile takes 1 s to %v, not %v", cpuMost, span))
		}
		if err := pprof.StartCPUProfile(&out); err != nil {
			return admin.RefusedError("another CPU profile is being made")
		}
		t := time.NewTimer(span)
		defer t.Stop()
		select {
		case <-t.C:
		case <-stream.Context().Done():
		}
		pprof.StopCPUProfile()
	case p == nil:
		return admin.InvalidError(fmt.Sprintf("unknown profile %q: goroutine, heap, allocs, mutex, block, threadcreate or cpu", req.GetKind()))
	default:
		how := 0
		if req.GetText() {
			how = 2
		}
		if err := p.WriteTo(&out, how); err != nil {
			return err
		}
	}
	for text := out.Bytes(); len(text) > 0; {
		n := min(piece, len(text))
		if err := stream.Send(&adminv1.ProfileResponse{Data: text[:n]}); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// Levels is the level of the log, that can be another one for a while. Close
// ends that.
type Levels struct {
	Level      *slog.LevelVar
	Configured func() string

	mu    sync.Mutex
	timer *time.Timer
	until time.Time
}

// LogLevel is of DebugService.
func (s *Service) LogLevel(_ context.Context, req *adminv1.LogLevelRequest) (*adminv1.LogLevelResponse, error) {
	l := s.Levels
	l.mu.Lock()
	defer l.mu.Unlock()
	if req.GetLevel() != "" {
		if err := l.set(req.GetLevel(), req.GetSpan().AsDuration()); err != nil {
			return nil, err
		}
	}
	out := &adminv1.LogLevelResponse{Level: strings.ToLower(l.Level.Level().String()), Configured: l.Configured()}
	if left := time.Until(l.until); left > 0 && out.GetLevel() != out.GetConfigured() {
		out.Left = durationpb.New(left)
	}
	return out, nil
}

func (l *Levels) set(level string, span time.Duration) error {
	var v slog.Level
	switch level {
	case "debug", "info", "warn", "error":
		_ = v.UnmarshalText([]byte(level)) // it knows these
	default:
		return admin.InvalidError(fmt.Sprintf("unknown level %q: debug, info, warn or error", level))
	}
	if span < 0 {
		return admin.InvalidError("a span is not negative")
	}
	if l.timer != nil {
		l.timer.Stop()
		l.timer, l.until = nil, time.Time{}
	}
	l.Level.Set(v)
	if span > 0 {
		l.until = time.Now().Add(span)
		l.timer = time.AfterFunc(span, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if !time.Now().Before(l.until) {
				_ = l.Level.UnmarshalText([]byte(l.Configured())) // the configuration lets no other pass
			}
		})
	}
	return nil
}

// Tail is the last of what went through it.
type Tail struct {
	to  io.Writer
	mu  sync.Mutex
	buf []byte
	n   int64 // octets so far
}

// NewTail makes a Tail that keeps so many octets.
func NewTail(to io.Writer, keep int) *Tail { return &Tail{to: to, buf: make([]byte, keep)} }

// Write is of io.Writer.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	for rest := p; len(rest) > 0; {
		n := copy(t.buf[t.n%int64(len(t.buf)):], rest)
		t.n += int64(n)
		rest = rest[n:]
	}
	t.mu.Unlock()
	return t.to.Write(p)
}

// Last gives what is kept, from the beginning of a line on.
func (t *Tail) Last(context.Context) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := int(t.n % int64(len(t.buf)))
	if t.n < int64(len(t.buf)) {
		return bytes.Clone(t.buf[:at]), nil
	}
	all := append(bytes.Clone(t.buf[at:]), t.buf[:at]...)
	if i := bytes.IndexByte(all, '\n'); i >= 0 {
		all = all[i+1:]
	}
	return all, nil
}

// JSON makes a source of a call of the API.
func JSON[Req, Res proto.Message](name string, call func(context.Context, Req) (Res, error), req Req) Source {
	return Source{Name: name, Make: func(ctx context.Context) ([]byte, error) {
		res, err := call(ctx, req)
		if err != nil {
			return nil, err
		}
		return protojson.MarshalOptions{Multiline: true, UseProtoNames: true, EmitUnpopulated: true}.Marshal(res)
	}}
}

// Process are the sources that every process has.
func Process(version string, page http.Handler) []Source {
	profile := func(kind string, how int) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) {
			var b bytes.Buffer
			err := pprof.Lookup(kind).WriteTo(&b, how)
			return b.Bytes(), err
		}
	}
	return []Source{
		{Name: "version.txt", Make: func(context.Context) ([]byte, error) {
			info, _ := debug.ReadBuildInfo() // nil prints as nothing
			return fmt.Appendf(nil, "%s\n%v\n", version, info), nil
		}},
		{Name: "metrics.txt", Make: func(ctx context.Context) ([]byte, error) { return get(ctx, page) }},
		{Name: "goroutines.txt", Make: profile("goroutine", 2)},
		{Name: "heap.pprof", Make: profile("heap", 0), Raw: true},
		{Name: "limits.txt", Make: func(context.Context) ([]byte, error) { return os.ReadFile("/proc/self/limits") }},
		{Name: "process.txt", Make: func(context.Context) ([]byte, error) { return os.ReadFile("/proc/self/status") }},
	}
}

// answer is what a handler writes.
type answer struct {
	header http.Header
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }
func (a *answer) WriteHeader(int)             {}

// get asks a handler of this process for its page.
func get(ctx context.Context, page http.Handler) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return nil, err
	}
	a := &answer{header: http.Header{}}
	page.ServeHTTP(a, req)
	return a.body.Bytes(), nil
}
