// Package certs is the part of the noun cert that asks a running cluster: how the
// nodes' certificates stand, their renewal, and the replacement of the
// authority.
package certs

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Connect connects to a relay, calls f, and explains its errors.
type Connect func(f func(conn grpc.ClientConnInterface) error) error

type nouns struct {
	*cmdline.Console
	with Connect
}

// askTimeout bounds a call.
const askTimeout = time.Minute

// hashShown is how many digits of a hash tell authorities apart in a table.
const hashShown = 12

// Commands makes the commands.
func Commands(c *cmdline.Console, with Connect) []*cobra.Command {
	n := &nouns{c, with}
	return []*cobra.Command{n.statusCommand(), n.renewCommand(), n.rotateCommand()}
}

// nodeCert is what cert status prints of a node.
type nodeCert struct {
	Node    string     `json:"node"`
	Until   *time.Time `json:"until"` // null while the node has said nothing
	Issuer  string     `json:"issuer"`
	Trusts  []string   `json:"trusts"`
	Signs   []string   `json:"signs"`
	Problem string     `json:"problem"`
}

// status is what cert status prints.
type status struct {
	Nodes   []nodeCert `json:"nodes"`
	Step    string     `json:"step"` // trust, issue, drop, abort, or empty
	Old     string     `json:"old_authority"`
	New     string     `json:"new_authority"`
	Author  string     `json:"author"`
	At      *time.Time `json:"at"`
	Waiting []string   `json:"waiting"`
}

func (a *nouns) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Tell how the certificates of the nodes stand",
		Long: `Tell how the certificates of the nodes stand, as each node has said: until when
they are valid, which authority signed them, by the beginning of its SHA-256,
which ones the node trusts, and whether it holds ca.key and can sign. With a
problem the exit code is 8, with a node that has said nothing 7.`,
		Args: cmdline.AtMost[*cobra.Command](0, "all nodes are shown"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewCertServiceClient(conn).Nodes(ctx, &adminv1.CertServiceNodesRequest{})
				if err != nil {
					return err
				}
				return a.printStatus(res)
			})
		},
	}
}

func (a *nouns) printStatus(res *adminv1.CertServiceNodesResponse) error {
	out := status{
		Nodes: []nodeCert{}, Step: res.GetStep(), Old: res.GetOldAuthority(), New: res.GetNewAuthority(), Author: res.GetAuthor(),
		At: cmdline.Stamp(res.GetAt()), Waiting: append([]string{}, res.GetWaiting()...),
	}
	var silent, wrong []string
	for _, n := range res.GetNodes() {
		out.Nodes = append(out.Nodes, nodeCert{
			Node: n.GetNode(), Until: cmdline.Stamp(n.GetUntil()), Issuer: n.GetIssuer(), Trusts: append([]string{}, n.GetTrusts()...),
			Signs: append([]string{}, n.GetSigns()...), Problem: n.GetProblem(),
		})
		switch {
		case n.GetUntil() == nil:
			silent = append(silent, n.GetNode())
		case n.GetProblem() != "" || !a.Now().Before(n.GetUntil().AsTime()):
			wrong = append(wrong, n.GetNode())
		}
	}
	if err := a.Object(out, func(w io.Writer) error { return out.table(w, a.Now()) }); err != nil {
		return err
	}
	switch {
	case len(wrong) > 0:
		return cmdline.Exitf(cmdline.ExitFindings, "the certificate of %s needs a look", strings.Join(wrong, ", "))
	case len(silent) > 0:
		return cmdline.Exitf(cmdline.ExitPartly, "nothing is known yet of %s", strings.Join(silent, ", "))
	}
	return nil
}

func (s *status) table(w io.Writer, now time.Time) error {
	_, err := fmt.Fprintln(w, "NODE\tUNTIL\tAUTHORITY\tTRUSTS\tSIGNS\tPROBLEM")
	for i := range s.Nodes {
		n := &s.Nodes[i]
		until, signs, problem := "?", "no", "-"
		if n.Until != nil {
			until = n.Until.Format(time.DateOnly)
			if !now.Before(*n.Until) {
				until += " (ended)"
			}
		}
		if slices.Contains(n.Signs, n.Issuer) {
			signs = "yes"
		}
		if n.Problem != "" {
			problem = cmdline.Cell(n.Problem, 200)
		}
		var trusts []string
		for _, t := range n.Trusts {
			trusts = append(trusts, short(t))
		}
		if err == nil {
			_, err = fmt.Fprintln(w, strings.Join([]string{n.Node, until, short(n.Issuer), strings.Join(trusts, " "), signs, problem}, "\t"))
		}
	}
	if err == nil && s.Step != "" {
		waiting := "every node has done its part"
		if len(s.Waiting) > 0 {
			waiting = "waiting for " + strings.Join(s.Waiting, ", ")
		}
		_, err = fmt.Fprintf(w, "\nauthority %s -> %s: %s (by %s at %s), %s\n", short(s.Old), short(s.New), s.Step, cmdline.Cell(s.Author, 70), s.At.Format(time.RFC3339), waiting)
	}
	return err
}

func short(hash string) string {
	if hash == "" {
		return "-"
	}
	return cmdline.Cell(hash[:min(len(hash), hashShown)], hashShown)
}

func (a *nouns) renewCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "renew",
		Short: "Get the node that is asked a new certificate now",
		Long: `Get the node that is asked a new certificate, with a new key, the same name and
hosts, and the life that the present one had. It is in use when the command
returns; connections that stand go on. A node does so by itself when a third of
the life is left; it takes a node that holds ca.key.`,
		Args: cmdline.AtMost[*cobra.Command](0, "it is about the node that is asked"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewCertServiceClient(conn).Renew(ctx, &adminv1.CertServiceRenewRequest{})
				if err != nil {
					return err
				}
				out := struct {
					Node  string     `json:"node"`
					Until *time.Time `json:"until"`
				}{res.GetNode(), cmdline.Stamp(res.GetUntil())}
				return a.Object(out, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%s has a new certificate, valid until %s\n", out.Node, out.Until.Format(time.DateOnly))
					return err
				})
			})
		},
	}
}

func (a *nouns) rotateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate-ca STEP",
		Short: "Replace the authority of the cluster, step by step",
		Long: `Replace the authority of the cluster, without a restart, in three steps. Each is
refused (6) until every node has done its part of the one before; "cert status"
shows who is waited for.

    trust  on a node that holds ca.key: make a new authority, vouched for by the
           present one; every node puts it into its ca.crt beside that
    issue  every node gets a certificate of the new one
    drop   every node forgets the old one; what it signed is not taken any more

Between issue and drop give the operators certificates of the new authority:
those of the old one end with drop. "abort" takes trust back.

A node that is dead holds it up until it is back or removed. ca.key is replaced
on the node that made the new authority, and is removed elsewhere: bring it to
other nodes that are to sign.`,
		Example:   "clrelay cert rotate-ca trust",
		ValidArgs: []string{"trust", "issue", "drop", "abort"},
		Args:      cmdline.Exactly[*cobra.Command](1, "one STEP: trust, issue, drop or abort"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewCertServiceClient(conn).Rotate(ctx, &adminv1.CertServiceRotateRequest{Step: args[0]})
				if err != nil {
					return err
				}
				out := struct {
					Step string `json:"step"`
				}{res.GetStep()}
				if err := a.Object(out, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%s: the nodes do their part by themselves\n", out.Step)
					return err
				}); err != nil {
					return err
				}
				next := map[string]string{
					"trust": "Next, once no node is waited for: clrelay cert rotate-ca issue",
					"issue": "Next: give the operators new certificates, then, once no node is waited for: clrelay cert rotate-ca drop",
				}
				if text := next[out.Step]; text != "" {
					a.Talk("See who is waited for: clrelay cert status\n%s", text)
				}
				return nil
			})
		},
	}
}
