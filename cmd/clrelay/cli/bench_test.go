package cli_test

import (
	"io"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/clrelay/clrelay/cmd/clrelay/cli"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/metrics"
)

// BenchmarkList lists 30,000 recipients, from the server's side of the socket
// to what is printed.
func BenchmarkList(b *testing.B) {
	for _, format := range []string{"table", "json", "yaml"} {
		b.Run(format, func(b *testing.B) {
			r := newRelay()
			for range 10_000 {
				r.entries = append(r.entries, r.entries[:3]...)
			}
			path := filepath.Join(b.TempDir(), admin.SocketName)
			l, err := admin.Listen(path)
			if err != nil {
				b.Fatal(err)
			}
			srv := admin.New(admin.Options{Queue: r, Messages: r, Node: r, Metrics: metrics.New().Node, Log: slog.New(slog.DiscardHandler)})
			served := make(chan error, 1)
			go func() { served <- srv.Serve(l) }()
			app := &cli.App{Stdout: io.Discard, Stderr: io.Discard, Getenv: func(string) string { return path }, Now: now}
			b.ReportAllocs()
			for b.Loop() {
				if code := cli.Execute(b.Context(), app, cli.NewRoot(app), []string{"queue", "list", "-o", format}); code != 0 {
					b.Fatalf("exit code %d", code)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(r.entries)), "ns/row")
			srv.Shutdown(b.Context())
			if err := <-served; err != nil {
				b.Error(err)
			}
		})
	}
}
