// Package access is the nouns access and audit of the command line: who may do
// what, and what was done by whom.
package access

import (
	"context"
	"fmt"
	"io"
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

// Commands makes the commands access and audit.
func Commands(c *cmdline.Console, with Connect) []*cobra.Command {
	n := &nouns{c, with}
	access := &cobra.Command{
		Use:   "access",
		Short: "Tell who may do what",
		Long: `Tell who may do what. An operator's role stands in his certificate (clrelay cert
create-admin --role), or, which counts more, under "access" in the cluster's
configuration. On the machine itself root and the user of the relay may do
everything.`,
	}
	access.AddCommand(n.whoamiCommand(), n.bindingsCommand())
	return []*cobra.Command{access, n.auditCommand()}
}

// askTimeout bounds a call that only looks at something small.
const askTimeout = 30 * time.Second

// whoami is what access whoami prints.
type whoami struct {
	Name    string     `json:"name"`
	Role    string     `json:"role"`
	Content bool       `json:"content"` // may read what is written in messages
	Masked  bool       `json:"masked"`  // addresses are hidden from him
	Source  string     `json:"source"`  // socket, certificate or cluster
	Expires *time.Time `json:"expires"` // of the certificate; null without one
}

func (a *nouns) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Tell who the caller is, and his role",
		Args:  cmdline.AtMost[*cobra.Command](0, "it is about the caller"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewAccessServiceClient(conn).Whoami(ctx, &adminv1.WhoamiRequest{})
				if err != nil {
					return err
				}
				out := whoami{res.GetName(), res.GetRole(), res.GetContent(), res.GetMasked(), res.GetSource(), cmdline.Stamp(res.GetExpires())}
				return a.Object(out, func(w io.Writer) error {
					expires := "-"
					if out.Expires != nil {
						expires = out.Expires.Format(time.DateOnly)
					}
					_, err := fmt.Fprintf(w, "name\t%s\nrole\t%s (from: %s)\naddresses\t%s\nmessages' content\t%s\ncertificate expires\t%s\n",
						cmdline.Cell(out.Name, 64), out.Role, out.Source, word(!out.Masked, "shown", "masked"), word(out.Content, "with a reason", "no"), expires)
					return err
				})
			})
		},
	}
}

func word(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}

// binding is a row of access list.
type binding struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Content bool   `json:"content"`
}

func (a *nouns) bindingsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List whom the cluster's configuration binds to a role",
		Long: `List whom the cluster's configuration binds to a role, under "access". Who is not
listed has the role that stands in his certificate; one without a role is admin.`,
		Args: cmdline.AtMost[*cobra.Command](0, "all are listed"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewAccessServiceClient(conn).List(ctx, &adminv1.AccessServiceListRequest{})
				if err != nil {
					return err
				}
				l := a.List("NAME", "ROLE", "CONTENT")
				for _, b := range res.GetBindings() {
					if err := l.Row(binding{b.GetName(), b.GetRole(), b.GetContent()}, cmdline.Cell(b.GetName(), 64), b.GetRole(), word(b.GetContent(), "yes", "no")); err != nil {
						return err
					}
				}
				return l.End()
			})
		},
	}
}
