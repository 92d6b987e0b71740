// Package doctor is the command doctor: it lets the nodes look for what is
// wrong, and prints what they found.
package doctor

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Connect connects to a relay, calls f, and explains its errors.
type Connect func(f func(conn grpc.ClientConnInterface) error) error

// timeout is longer than the nodes take at most.
const timeout = time.Minute

// Command makes the command doctor.
func Command(c *cmdline.Console, with Connect) *cobra.Command {
	var (
		node string
		all  bool
	)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong before it shows in the mail",
		Long: `Lets every node check itself, and the node that is asked the cluster: service,
disk and where it is heading, syncs, limits, clock, resolver, listeners, the way
to other nodes and to smarthosts, certificates, kernel settings, configuration;
quorum, copies, silent nodes, versions, clocks of the nodes against each other.
Nothing is changed; data_dir is measured with a file that has no name.

What is as it should be is shown in short; --all shows every line. The exit code
is 8 when something is to be done, and 7 when a node did not answer.

What others see of our domains (SPF, DKIM, reverse DNS) is not looked at.`,
		Example: "  clrelay doctor\n  clrelay doctor --node mx2 --all",
		Args:    cmdline.AtMost[*cobra.Command](0, "a node is named with --node"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
				defer cancel()
				res, err := adminv1.NewDoctorServiceClient(conn).Examine(ctx, &adminv1.ExamineRequest{Node: node})
				if err != nil {
					return err
				}
				return show(c, res, all)
			})
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "this `node` alone")
	cmd.Flags().BoolVar(&all, "all", false, "show what is as it should be, line by line")
	return cmd
}

// report is what doctor prints.
type report struct {
	Findings     []finding `json:"findings"`
	OK           int       `json:"ok"`
	Warnings     int       `json:"warnings"`
	Failures     int       `json:"failures"`
	Unknown      int       `json:"unknown"`
	MissingNodes []string  `json:"missing_nodes"`
}

type finding struct {
	Level string `json:"level"` // ok, warn, fail, unknown
	Node  string `json:"node"`  // empty for the cluster
	Check string `json:"check"`
	Text  string `json:"text"`
	Fix   string `json:"fix"`
}

func show(c *cmdline.Console, res *adminv1.ExamineResponse, all bool) error {
	r := &report{Findings: []finding{}, MissingNodes: append([]string{}, res.GetMissingNodes()...)}
	for _, f := range res.GetFindings() {
		level := strings.ToLower(strings.TrimPrefix(f.GetLevel().String(), "FINDING_LEVEL_"))
		switch f.GetLevel() {
		case adminv1.FindingLevel_FINDING_LEVEL_OK:
			r.OK++
		case adminv1.FindingLevel_FINDING_LEVEL_WARN:
			r.Warnings++
		case adminv1.FindingLevel_FINDING_LEVEL_FAIL:
			r.Failures++
		default:
			level = "unknown"
			r.Unknown++
		}
		r.Findings = append(r.Findings, finding{level, f.GetNode(), f.GetCheck(), f.GetText(), f.GetFix()})
	}
	if err := c.Object(r, func(w io.Writer) error { return r.table(w, all) }); err != nil {
		return err
	}
	switch {
	case len(r.MissingNodes) > 0:
		return cmdline.Exitf(cmdline.ExitPartly, "no answer from %s: they were not examined", strings.Join(r.MissingNodes, ", "))
	case r.Failures+r.Warnings > 0:
		return cmdline.Exitf(cmdline.ExitFindings, "%d failed, %s", r.Failures, cmdline.Plural(int64(r.Warnings), "warning"))
	}
	return nil
}

// table writes what is bad first, with what to do; what is good is a line a
// node, unless all is asked for.
func (r *report) table(w io.Writer, all bool) error {
	good := map[string][]string{}
	var nodes []string
	for _, level := range []string{"fail", "warn", "unknown", "ok"} {
		for _, f := range r.Findings {
			if f.Level != level {
				continue
			}
			node := f.Node
			if node == "" {
				node = "cluster"
			}
			if level == "ok" && !all {
				if good[node] == nil {
					nodes = append(nodes, node)
				}
				if list := good[node]; len(list) == 0 || list[len(list)-1] != f.Check {
					good[node] = append(list, f.Check)
				}
				continue
			}
			word := level
			if level == "fail" {
				word = "FAIL"
			}
			if _, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", word, node, f.Check, cmdline.Cell(f.Text, 300)); err != nil {
				return err
			}
			if f.Fix == "" {
				continue
			}
			if _, err := fmt.Fprintf(w, "\t\t\tfix: %s\n", cmdline.Cell(f.Fix, 400)); err != nil {
				return err
			}
		}
	}
	for _, node := range nodes {
		if _, err := fmt.Fprintf(w, "ok\t%s\t%s\n", node, strings.Join(good[node], ", ")); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%d failed, %s, %d ok, %d unknown\n", r.Failures, cmdline.Plural(int64(r.Warnings), "warning"), r.OK, r.Unknown)
	return err
}
