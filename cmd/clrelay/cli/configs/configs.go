// Package configs is the noun config of the command line, as far as it is about
// the configuration that all nodes of a cluster share: its versions, what differs
// between them, and how one becomes the next.
package configs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
	"github.com/clrelay/clrelay/proto/control"
)

// askTimeout bounds a call that only looks, or asks for one decision.
const askTimeout = 30 * time.Second

// Connect connects to a relay, calls f, and explains its errors.
type Connect func(f func(conn grpc.ClientConnInterface) error) error

type verbs struct {
	*cmdline.Console
	with   Connect
	getenv func(string) string
}

// Commands makes the commands of config that speak to a relay.
func Commands(c *cmdline.Console, with Connect, getenv func(string) string) []*cobra.Command {
	v := &verbs{c, with, getenv}
	return []*cobra.Command{
		v.getCommand(), v.exportCommand(), v.historyCommand(), v.diffCommand(), v.applyCommand(), v.rollbackCommand(), v.confirmCommand(), v.editCommand(),
	}
}

// get asks for a version, the newest for 0.
func get(ctx context.Context, conn grpc.ClientConnInterface, version uint64) (*adminv1.ConfigServiceGetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return adminv1.NewConfigServiceClient(conn).Get(ctx, &adminv1.ConfigServiceGetRequest{Version: version})
}

// textOf is the text of a version, to be applied again. That of a cluster that
// was founded without a file is empty, which nobody may apply: it is too easily a
// mistake.
func textOf(res *adminv1.ConfigServiceGetResponse) []byte {
	if len(res.GetText()) == 0 {
		return []byte("# nothing is set: the defaults are in force\n")
	}
	return res.GetText()
}

// errAlone is why a relay without a cluster has nothing to be changed here.
var errAlone = cmdline.Exitf(cmdline.ExitConflict,
	"this relay is not part of a cluster: its configuration is the file that cluster_config in node.yaml names; change it there and reload")

// newest asks for the newest version of a cluster, to change it.
func newest(ctx context.Context, conn grpc.ClientConnInterface) (*adminv1.ConfigServiceGetResponse, error) {
	res, err := get(ctx, conn, 0)
	if err == nil && res.GetVersion() == 0 {
		err = errAlone
	}
	return res, err
}

// versionFlag is a flag for a version; one that is given must be one.
func versionFlag(cmd *cobra.Command, to *uint64, name, usage string) {
	cmd.Flags().Var((*number)(to), name, usage)
}

// number is the number of a version.
type number uint64

// Set is of pflag.Value.
func (n *number) Set(s string) error {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v == 0 {
		return errors.New("versions are numbers and begin with 1")
	}
	*n = number(v)
	return nil
}

// String is of pflag.Value.
func (n *number) String() string {
	if *n == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(*n), 10)
}

// Type is of pflag.Value.
func (*number) Type() string { return "version" }

func (a *verbs) getCommand() *cobra.Command {
	var version uint64
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Print the configuration that all nodes of the cluster share",
		Long: `Print the newest version of the cluster.yaml that all nodes of the cluster share,
or another that is kept, as it was applied. Its number, for --if-version of
"config apply", goes to stderr, and into the other formats together with who
applied it, when and why. A relay that is alone prints the file that is in
force, which has no number (0).`,
		Args: cmdline.AtMost[*cobra.Command](0, "the version is given with --version"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				res, err := get(cmd.Context(), conn, version)
				if err != nil {
					return err
				}
				return a.printConfig(res)
			})
		},
	}
	versionFlag(cmd, &version, "version", "the `number` of a version that is kept; the newest without it")
	return cmd
}

func (a *verbs) printConfig(res *adminv1.ConfigServiceGetResponse) error {
	out := struct {
		Version uint64     `json:"version"`
		Author  string     `json:"author"`
		Reason  string     `json:"reason"`
		Applied *time.Time `json:"applied"`
		Text    string     `json:"text"`
		Until   *time.Time `json:"probation_until"`
	}{res.GetVersion(), res.GetAuthor(), res.GetReason(), cmdline.Stamp(res.GetApplied()), string(res.GetText()), cmdline.Stamp(res.GetProbation().GetUntil())}
	if out.Until != nil {
		a.Talk("# on probation: unless it is confirmed, version %d comes back at %s", res.GetProbation().GetPrevious(), out.Until.Format(time.RFC3339))
	}
	if a.Format != cmdline.FormatTable {
		return a.Object(out, nil)
	}
	if out.Version == 0 {
		a.Talk("# the file in force: this relay is not part of a cluster")
	} else {
		a.Talk("# version %d, applied by %s", out.Version, cmdline.Cell(out.Author, 80))
	}
	_, err := io.WriteString(a.Stdout, out.Text)
	return err
}

func (a *verbs) exportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export",
		Short: "Write the newest version, so that apply would change nothing",
		Long: `Write the newest version of the cluster.yaml to stdout and nothing else, as YAML
whatever -o says, so that "config apply -f" of it changes nothing.`,
		Example: `  clrelay config export > cluster.yaml
  clrelay config export | clrelay --addr mx1.other.example config apply -f -`,
		Args: cmdline.AtMost[*cobra.Command](0, "it takes nothing"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				res, err := get(cmd.Context(), conn, 0)
				if err != nil {
					return err
				}
				_, err = a.Stdout.Write(textOf(res))
				return err
			})
		},
	}
}

// version is what config history prints of one.
type version struct {
	Version uint64     `json:"version"`
	Applied *time.Time `json:"applied"`
	Author  string     `json:"author"`
	Reason  string     `json:"reason"`
	Size    int64      `json:"size"`
}

func (a *verbs) historyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "history",
		Short: "List the versions of the configuration that are kept",
		Long:  fmt.Sprintf("List the versions of the configuration that are kept, the last %d, the newest\nfirst: when they were applied, by whom and why.", control.KeepConfigs),
		Args:  cmdline.AtMost[*cobra.Command](0, "all versions are listed"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				list, err := history(cmd.Context(), conn)
				if err != nil {
					return err
				}
				out := a.List("VERSION", "WHEN", "AUTHOR", "REASON", "SIZE")
				for _, v := range list {
					row := version{v.GetVersion(), cmdline.Stamp(v.GetApplied()), v.GetAuthor(), v.GetReason(), v.GetSize()}
					if err := out.Row(row, row.cells()...); err != nil {
						return err
					}
				}
				return out.End()
			})
		},
	}
}

func (v *version) cells() []string {
	when, reason := "-", "-"
	if v.Applied != nil {
		when = v.Applied.Format(time.RFC3339)
	}
	if v.Reason != "" {
		reason = cmdline.Cell(v.Reason, 80)
	}
	return []string{strconv.FormatUint(v.Version, 10), when, cmdline.Cell(v.Author, 40), reason, cmdline.Size(v.Size)}
}

func history(ctx context.Context, conn grpc.ClientConnInterface) ([]*adminv1.ConfigVersion, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	res, err := adminv1.NewConfigServiceClient(conn).History(ctx, &adminv1.ConfigServiceHistoryRequest{})
	return res.GetVersions(), err
}

// read reads a configuration and sees that it has no mistake that can be seen
// here.
func (a *verbs) read(file string) ([]byte, error) {
	var (
		text []byte
		err  error
	)
	if file == "-" {
		text, err = io.ReadAll(io.LimitReader(a.Stdin, control.MaxConfigText+1))
		file = "stdin"
	} else {
		text, err = os.ReadFile(file)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, &cmdline.ExitError{Code: cmdline.ExitDenied, Err: err}
	case err != nil:
		return nil, &cmdline.ExitError{Code: cmdline.ExitConfig, Err: err}
	}
	return text, check(file, text)
}

// check finds the mistakes of a configuration that can be seen here.
func check(file string, text []byte) error {
	switch {
	case len(text) > control.MaxConfigText:
		return cmdline.Exitf(cmdline.ExitConfig, "%s: more than %d octets", file, control.MaxConfigText)
	case len(text) == 0:
		return cmdline.Exitf(cmdline.ExitConfig, "%s: it is empty", file)
	}
	_, err := config.ParseCluster(file, text, &config.Node{})
	return err
}
