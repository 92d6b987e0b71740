package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// maxConfig bounds a configuration, in octets.
const maxConfig = 512 << 10

// ConfigCommands makes the commands get and apply of config.
func ConfigCommands(c *cmdline.Console, with Connect) []*cobra.Command {
	n := &nouns{c, with}
	return []*cobra.Command{n.getCommand(), n.applyCommand()}
}

func (a *nouns) getCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get",
		Short: "Print the configuration that all nodes of the cluster share",
		Long: `Print the newest version of the cluster.yaml that all nodes of the cluster share,
as it was applied. Its number, for --if-version of "config apply", goes to
stderr, and into the other formats together with who applied it, when and why.`,
		Args: cmdline.AtMost[*cobra.Command](0, "it takes nothing"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewConfigServiceClient(conn).Get(ctx, &adminv1.ConfigServiceGetRequest{})
				if err != nil {
					return err
				}
				return a.printConfig(res)
			})
		},
	}
}

func (a *nouns) printConfig(res *adminv1.ConfigServiceGetResponse) error {
	out := struct {
		Version uint64     `json:"version"`
		Author  string     `json:"author"`
		Reason  string     `json:"reason"`
		Applied *time.Time `json:"applied"`
		Text    string     `json:"text"`
	}{res.GetVersion(), res.GetAuthor(), res.GetReason(), cmdline.Stamp(res.GetApplied()), string(res.GetText())}
	if a.Format == cmdline.FormatTable {
		a.Talk("# version %d, applied by %s", out.Version, cmdline.Cell(out.Author, 80))
		_, err := io.WriteString(a.Stdout, out.Text)
		return err
	}
	return a.Object(out, nil)
}

func (a *nouns) applyCommand() *cobra.Command {
	var (
		file, reason string
		ifVersion    uint64
	)
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make a file the configuration that all nodes share",
		Long: `Make FILE, a cluster.yaml, the configuration that all nodes of the cluster share.
It is checked here first: with an error the exit code is 78 and nothing is
changed. With --if-version it is applied only if the newest version still is
that one, else the exit code is 6. Each node takes it over within a moment.`,
		Example: `  clrelay config apply -f cluster.yaml --reason INC-4411`,
		Args:    cmdline.AtMost[*cobra.Command](0, "the FILE is given with -f"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case file == "":
				return cmdline.Usagef(cmd.CommandPath(), "-f FILE is missing")
			case cmd.Flags().Changed("if-version") && ifVersion == 0:
				return cmdline.Usagef(cmd.CommandPath(), "--if-version: versions begin with 1")
			}
			text, err := a.readConfig(file)
			if err != nil {
				return err
			}
			req := &adminv1.ConfigServiceApplyRequest{Text: text, IfVersion: ifVersion, Reason: reason}
			return a.with(func(conn grpc.ClientConnInterface) error { return a.apply(cmd.Context(), conn, req) })
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "the `FILE` to apply; - is stdin")
	f.Uint64Var(&ifVersion, "if-version", 0, "the `version` that it is to replace; with another one nothing is changed")
	f.StringVar(&reason, "reason", "", "`why`, for the record")
	return cmd
}

// readConfig reads a configuration and sees that it has no mistake that can be
// seen here.
func (a *nouns) readConfig(file string) ([]byte, error) {
	var (
		text []byte
		err  error
	)
	if file == "-" {
		text, err = io.ReadAll(io.LimitReader(a.Stdin, maxConfig+1))
		file = "stdin"
	} else {
		text, err = os.ReadFile(file)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, &cmdline.ExitError{Code: cmdline.ExitDenied, Err: err}
	case err != nil:
		return nil, &cmdline.ExitError{Code: cmdline.ExitConfig, Err: err}
	case len(text) > maxConfig:
		return nil, cmdline.Exitf(cmdline.ExitConfig, "%s: more than %d octets", file, maxConfig)
	}
	_, err = config.ParseCluster(file, text, &config.Node{})
	return text, err
}

func (a *nouns) apply(ctx context.Context, conn grpc.ClientConnInterface, req *adminv1.ConfigServiceApplyRequest) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	res, err := adminv1.NewConfigServiceClient(conn).Apply(ctx, req)
	if grpcstatus.Code(err) == codes.InvalidArgument {
		return cmdline.Exitf(cmdline.ExitConfig, "%s", grpcstatus.Convert(err).Message())
	}
	if err != nil {
		return err
	}
	out := struct {
		Version uint64 `json:"version"`
	}{res.GetVersion()}
	return a.Object(out, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "version %d is applied\n", out.Version)
		return err
	})
}
