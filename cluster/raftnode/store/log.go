package store

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// Bridge lets the library log into ours. What it calls info is of interest to
// its developers; what it calls an error is mostly a peer that is away.
func Bridge(log *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Off, Output: io.Discard})
	l.RegisterSink(sink{log})
	return l
}

type sink struct{ log *slog.Logger }

// Accept is called for every line; it must be safe for many goroutines.
func (s sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case hclog.Warn:
		to = slog.LevelInfo
	case hclog.Error:
		to = slog.LevelWarn
	}
	if !s.log.Enabled(context.Background(), to) {
		return
	}
	attrs := []any{"what", msg}
	for i := 0; i+1 < len(args); i += 2 {
		key, ok := args[i].(string)
		if !ok {
			continue
		}
		v := args[i+1]
		switch x := v.(type) {
		case error:
			v = x.Error()
		case hclog.Format:
			if f, ok := x[0].(string); ok {
				v = fmt.Sprintf(f, x[1:]...)
			}
		case string, int, int64, uint64, bool:
		default:
			v = fmt.Sprint(x)
		}
		attrs = append(attrs, key, v)
	}
	s.log.Log(context.Background(), to, "raft", attrs...)
}
