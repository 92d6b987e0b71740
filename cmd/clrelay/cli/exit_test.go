package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config"
)

// Scripts rely on these.
func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("anything"), 1},
		{cmdline.Usagef("clrelay", "wrong"), 2},
		{fmt.Errorf("deep: %w", cmdline.Usagef("clrelay", "wrong")), 2},
		{cmdline.Exitf(cmdline.ExitFindings, "damage"), 8},
		{fmt.Errorf("deep: %w", cmdline.Exitf(cmdline.ExitPartly, "some")), 7},
		{fmt.Errorf("serve: %w", config.Errors{{File: "node.yaml"}}), 78},
		{context.DeadlineExceeded, 4},
		{fromCall(status.Error(codes.InvalidArgument, "")), 2},
		{fromCall(status.Error(codes.NotFound, "")), 3},
		{fromCall(status.Error(codes.Unavailable, "")), 4},
		{fromCall(status.Error(codes.DeadlineExceeded, "")), 4},
		{fromCall(status.Error(codes.PermissionDenied, "")), 5},
		{fromCall(status.Error(codes.Unauthenticated, "")), 5},
		{fromCall(status.Error(codes.FailedPrecondition, "")), 6},
		{fromCall(status.Error(codes.Aborted, "")), 6},
		{fromCall(status.Error(codes.Unimplemented, "")), 1},
		{fromCall(status.Error(codes.Internal, "")), 1},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v ends with %d, want %d", c.err, got, c.want)
		}
	}
}

// A command that Ctrl-C ended is told apart from one that failed by itself,
// and one that ended well in spite of it is neither.
func TestInterrupted(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(cancel func()) error
		want int
	}{
		{"failed", func(func()) error { return errors.New("no") }, 1},
		{"interrupted", func(cancel func()) error { cancel(); return context.Canceled }, 130},
		{"ended well", func(cancel func()) error { cancel(); return nil }, 0},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var stderr bytes.Buffer
		app := &App{Stdout: &bytes.Buffer{}, Stderr: &stderr, Getenv: func(string) string { return "" }, Now: time.Now}
		root := NewRoot(app)
		root.AddCommand(&cobra.Command{Use: "work", RunE: func(*cobra.Command, []string) error { return c.run(cancel) }})
		if got := Execute(ctx, app, root, []string{"work"}); got != c.want {
			t.Errorf("%s: exit code %d, want %d (%s)", c.name, got, c.want, strings.TrimSpace(stderr.String()))
		}
		cancel()
	}
}
