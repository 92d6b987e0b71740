package main

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cmd/clrelay/cli"
)

// What makes no sense on the command line is a usage error, and nothing runs.
func TestUsage(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, args := range [][]string{
		{"demo", "--nodes", "2"}, {"demo", "--script", "nonsense"}, {"demo", "--nodes", "1", "--script", "drain"}, {"demo", "--for", "-1s"}, {"demo", "--for", "0s"}, {"demo", "--rate", "0"}, {"demo", "--rate", "NaN"}, {"demo", "--rate", "1e9"},
		{"demo", "extra"}, {"serve", "extra"}, {"serve", "--nonsense"},
	} {
		app := &cli.App{Stdout: io.Discard, Stderr: io.Discard, Getenv: func(string) string { return "" }, Now: time.Now, Terminal: func() bool { return false }}
		if code := cli.Execute(ctx, app, newRootCommand(app), args); code != cli.ExitUsage {
			t.Errorf("%q: exit code %d, want %d", args, code, cli.ExitUsage)
		}
	}
}
