package configs

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/config/diff"
)

// maxLine is how much of a difference a terminal gets to see, in characters.
const maxLine = 400

// difference is what config diff prints of one.
type difference struct {
	Op   diff.Op `json:"op"`
	Path string  `json:"path"`
	Old  *string `json:"old"` // null when it is added
	New  *string `json:"new"` // null when it is removed
}

func (a *verbs) diffCommand() *cobra.Command {
	var (
		file     string
		from, to uint64
		exitCode bool
	)
	cmd := &cobra.Command{
		Use:   "diff {-f FILE | --from N} [--to M]",
		Short: "Tell in which settings two configurations differ",
		Long: `Tell in which settings FILE differs from the newest version, or version M, the
newest without --to, from version N; with both -f and --from, FILE from that
version. A relay that is alone compares with the file in force.

It is settings that are compared and not lines: comments, the order of keys and
other ways to write the same value (2h, 120m) are no difference. Entries of a
list that have a name are matched by it, others by their position. A setting
that is left out is not the same as one with the default's value. + is added,
- removed, ~ changed. A secret is not shown.

With --exit-code the exit code is 8 when there is a difference.`,
		Example: `  clrelay config diff -f cluster.yaml
  clrelay config diff --from 11 --to 12`,
		Args: cmdline.AtMost[*cobra.Command](0, "the FILE is given with -f"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case file == "" && from == 0:
				return cmdline.Usagef(cmd.CommandPath(), "what is to be compared? Either -f FILE or --from VERSION")
			case file != "" && to != 0:
				return cmdline.Usagef(cmd.CommandPath(), "--to does not go with -f")
			}
			list, err := a.differ(cmd.Context(), file, from, to)
			if err != nil {
				return err
			}
			if err := a.printDiff(list); err != nil {
				return err
			}
			if exitCode && len(list) > 0 {
				return cmdline.Exitf(cmdline.ExitFindings, "%s", cmdline.Plural(int64(len(list)), "difference"))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "the `FILE` to compare with the newest version; - is stdin")
	versionFlag(cmd, &from, "from", "compare with this `version`")
	versionFlag(cmd, &to, "to", "the `version` that is compared with that; the newest without it")
	f.BoolVar(&exitCode, "exit-code", false, "exit with 8 when there is a difference")
	return cmd
}

// differ gets both sides and compares them.
func (a *verbs) differ(ctx context.Context, file string, from, to uint64) (list []diff.Difference, err error) {
	var text []byte
	if file != "" {
		if text, err = a.read(file); err != nil {
			return nil, err
		}
	}
	err = a.with(func(conn grpc.ClientConnInterface) error {
		was, err := get(ctx, conn, from)
		if err != nil {
			return err
		}
		if file == "" {
			is, err := get(ctx, conn, to)
			if err != nil {
				return err
			}
			text = is.GetText()
		}
		list, err = compare(was.GetText(), text)
		return err
	})
	return list, err
}

// compare compares two texts.
func compare(was, is []byte) ([]diff.Difference, error) {
	a, err := config.ClusterTree("the version before", was)
	if err != nil {
		return nil, fmt.Errorf("it cannot be compared: %w", err)
	}
	b, err := config.ClusterTree("the new version", is)
	if err != nil {
		return nil, fmt.Errorf("it cannot be compared: %w", err)
	}
	return diff.Trees(a, b), nil
}

func (a *verbs) printDiff(list []diff.Difference) error {
	if a.Format == cmdline.FormatTable {
		for i := range list {
			if _, err := fmt.Fprintln(a.Stdout, cmdline.Cell(list[i].String(), maxLine)); err != nil {
				return err
			}
		}
		if len(list) == 0 {
			a.Talk("no differences")
		}
		return nil
	}
	out := a.List()
	for _, d := range list {
		if err := out.Row(difference(d)); err != nil {
			return err
		}
	}
	return out.End()
}

// talkDiff shows what a change comes to.
func (a *verbs) talkDiff(list []diff.Difference) {
	for i := range list {
		a.Talk("%s", cmdline.Cell(list[i].String(), maxLine))
	}
}
