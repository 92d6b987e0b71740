// Package debug is the noun debug of the command line: what a developer asks
// for when something went wrong.
package debug

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Connect connects to a relay, calls f, and explains its errors.
type Connect func(f func(conn grpc.ClientConnInterface) error) error

type noun struct {
	*cmdline.Console
	with Connect
}

// Commands makes the command debug.
func Commands(c *cmdline.Console, with Connect) *cobra.Command {
	n := &noun{c, with}
	cmd := &cobra.Command{Use: "debug", Short: "Gather what is of use in a report of a fault"}
	cmd.AddCommand(n.bundleCommand(), n.goroutinesCommand(), n.profileCommand(), n.levelCommand())
	return cmd
}

// bundleTimeout is longer than the nodes take, one after the other.
const bundleTimeout = 10 * time.Minute

func (n *noun) bundleCommand() *cobra.Command {
	var (
		out  string
		full bool
	)
	cmd := &cobra.Command{
		Use:   "bundle --out FILE.tar.gz",
		Short: "Put all that helps to understand a fault into one file",
		Long: `Puts into one file what helps to understand a fault, of every node: version,
configuration, metrics, goroutines and memory, the last of the logs, what the
doctor found, how the cluster stands. It holds no mail.

Passwords and the like are left out. Mail addresses and IP addresses are masked,
equal ones by equal marks, but with --full; the names of domains and hosts stay.
Look at it before you give it to others. The file is whole or not there, and
nobody else may read it.`,
		Example: "  clrelay debug bundle --out fault.tar.gz",
		Args:    cmdline.AtMost[*cobra.Command](0, "the file is named with --out"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return cmdline.Usagef(cmd.CommandPath(), "--out is needed: the file to make")
			}
			return n.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), bundleTimeout)
				defer cancel()
				return n.bundle(ctx, conn, out, full)
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "the `file` to make; one that is there is left alone")
	cmd.Flags().BoolVar(&full, "full", false, "leave addresses as they are")
	return cmd
}

// made is what debug bundle prints.
type made struct {
	File         string   `json:"file"`
	Files        int      `json:"files"`
	Bytes        int64    `json:"bytes"`
	Masked       bool     `json:"masked"`
	MissingNodes []string `json:"missing_nodes"`
}

func (n *noun) bundle(ctx context.Context, conn grpc.ClientConnInterface, out string, full bool) (err error) {
	if _, err := os.Lstat(out); err == nil {
		return cmdline.Exitf(cmdline.ExitConflict, "%s is there already: name another file", out)
	}
	req := &adminv1.BundleRequest{Full: full, MaskKey: make([]byte, 32)}
	rand.Read(req.MaskKey) // never fails
	stream, err := adminv1.NewDebugServiceClient(conn).Bundle(ctx, req)
	if err != nil {
		return err
	}
	part := out + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return cmdline.Exitf(cmdline.ExitConflict, "%s is there: another bundle is being made, or was cut off; remove it", part)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // the first error is told
			_ = os.Remove(part)
		}
	}()
	m := &made{File: out, Masked: !full, MissingNodes: []string{}}
	if err := n.pack(stream, f, m); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(part, out); err != nil { // unlike a rename it takes nobody's place
		return err
	}
	if err := os.Remove(part); err != nil {
		return err
	}
	if st, err := os.Stat(out); err == nil {
		m.Bytes = st.Size()
	}
	if err := n.Object(m, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s\t%s, %s\n", m.File, cmdline.Plural(int64(m.Files), "file"), cmdline.Size(m.Bytes))
		return err
	}); err != nil {
		return err
	}
	if len(m.MissingNodes) > 0 {
		return cmdline.Exitf(cmdline.ExitPartly, "no answer from %s: theirs is missing", strings.Join(m.MissingNodes, ", "))
	}
	return nil
}

// maxFile bounds what is held of one file.
const maxFile = 64 << 20

// pack writes the files as they come.
func (n *noun) pack(stream grpc.ServerStreamingClient[adminv1.BundleResponse], to io.Writer, m *made) error {
	zip := gzip.NewWriter(to)
	t := tar.NewWriter(zip)
	var (
		name string
		text bytes.Buffer
	)
	flush := func() error {
		if name == "" {
			return nil
		}
		h := &tar.Header{Name: "clrelay-bundle/" + path.Clean("/" + name)[1:], Mode: 0o600, Size: int64(text.Len()), ModTime: n.Now(), Format: tar.FormatPAX}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		m.Files++
		_, err := t.Write(text.Bytes())
		text.Reset()
		return err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		m.MissingNodes = append(m.MissingNodes, r.GetMissingNodes()...)
		if r.GetName() == "" {
			continue
		}
		if r.GetName() != name {
			if err := flush(); err != nil {
				return err
			}
			name = r.GetName()
		}
		if text.Write(r.GetData()); text.Len() > maxFile {
			return fmt.Errorf("the file %s of the bundle is larger than %d octets", name, maxFile)
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return errors.Join(t.Close(), zip.Close())
}

func (n *noun) goroutinesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "goroutines",
		Short: "Print what every goroutine of the node does",
		Args:  cmdline.AtMost[*cobra.Command](0, "goroutines takes no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return n.profile(cmd.Context(), &adminv1.ProfileRequest{Kind: "goroutine", Text: true})
		},
	}
}

func (n *noun) profileCommand() *cobra.Command {
	var span time.Duration
	cmd := &cobra.Command{
		Use:       "profile KIND",
		Short:     "Write a profile of the node to stdout",
		Long:      "Writes a profile of the node that is asked to stdout, for \"go tool pprof\": cpu,\nheap, allocs, goroutine, mutex, block or threadcreate.",
		Example:   "  clrelay debug profile cpu --for 30s > cpu.pprof",
		ValidArgs: []string{"cpu", "heap", "allocs", "goroutine", "mutex", "block", "threadcreate"},
		Args:      cmdline.Exactly[*cobra.Command](1, "one profile is needed: cpu, heap, allocs, goroutine, mutex, block or threadcreate"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f, ok := n.Stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
				return cmdline.Usagef(cmd.CommandPath(), "a profile is no text: redirect stdout to a file")
			}
			return n.profile(cmd.Context(), &adminv1.ProfileRequest{Kind: args[0], Span: durationpb.New(span)})
		},
	}
	cmd.Flags().DurationVar(&span, "for", 10*time.Second, "how `long` a CPU profile takes")
	return cmd
}

func (n *noun) profile(ctx context.Context, req *adminv1.ProfileRequest) error {
	return n.with(func(conn grpc.ClientConnInterface) error {
		stream, err := adminv1.NewDebugServiceClient(conn).Profile(ctx, req)
		if err != nil {
			return err
		}
		w := bufio.NewWriter(n.Stdout)
		for {
			r, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return w.Flush()
			}
			if err != nil {
				return err
			}
			if _, err := w.Write(r.GetData()); err != nil {
				return err
			}
		}
	})
}

// level is what debug log-level prints.
type level struct {
	Level      string  `json:"level"`
	Configured string  `json:"configured"`
	Left       float64 `json:"left_seconds"` // 0 without an end
}

func (n *noun) levelCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "log-level", Short: "Show or change how much the node logs"}
	show := &cobra.Command{
		Use:   "show",
		Short: "Show the level of the log",
		Args:  cmdline.AtMost[*cobra.Command](0, "show takes no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return n.logLevel(cmd.Context(), &adminv1.LogLevelRequest{})
		},
	}
	var span string
	set := &cobra.Command{
		Use:   "set LEVEL",
		Short: "Log more or less for a while",
		Long: `Logs more or less: debug, info, warn or error, for the time of --for; then, and
whenever the configuration is read again, it is the configured level. Lines
about mail are written at every level.`,
		Example:   "  clrelay debug log-level set debug --for 10m",
		ValidArgs: []string{"debug", "info", "warn", "error"},
		Args:      cmdline.Exactly[*cobra.Command](1, "one level is needed: debug, info, warn or error"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := cmdline.ParseSpan(span)
			if err != nil || d == 0 {
				return cmdline.Usagef(cmd.CommandPath(), "--for %s: a time such as 10m", span)
			}
			return n.logLevel(cmd.Context(), &adminv1.LogLevelRequest{Level: args[0], Span: durationpb.New(d)})
		},
	}
	set.Flags().StringVar(&span, "for", "10m", "for how `long`")
	cmd.AddCommand(show, set)
	return cmd
}

func (n *noun) logLevel(ctx context.Context, req *adminv1.LogLevelRequest) error {
	return n.with(func(conn grpc.ClientConnInterface) error {
		res, err := adminv1.NewDebugServiceClient(conn).LogLevel(ctx, req)
		if err != nil {
			return err
		}
		left := res.GetLeft().AsDuration().Round(time.Second)
		return n.Object(level{res.GetLevel(), res.GetConfigured(), left.Seconds()}, func(w io.Writer) error {
			text := res.GetLevel()
			if left > 0 {
				text += fmt.Sprintf(" for %v, then %s", left, res.GetConfigured())
			}
			_, err := fmt.Fprintln(w, text)
			return err
		})
	})
}
