package cluster

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

// tokenUse is what a join token was used for.
type tokenUse struct {
	Node string     `json:"node"`
	At   *time.Time `json:"at"`
}

// token is a join token as it is printed, without its secret.
type token struct {
	ID      string     `json:"id"`
	State   string     `json:"state"` // usable, used up, expired
	Node    string     `json:"node"`  // empty: for any name
	Uses    int32      `json:"uses"`
	Left    int32      `json:"left"`
	Used    []tokenUse `json:"used"`
	Author  string     `json:"author"`
	Created *time.Time `json:"created"`
	Expires *time.Time `json:"expires"`
}

func (a *nouns) tokenOf(t *adminv1.JoinToken) token {
	out := token{
		ID: t.GetId(), State: "usable", Node: t.GetNode(), Uses: t.GetUses(), Left: t.GetLeft(), Used: []tokenUse{}, Author: t.GetAuthor(),
		Created: cmdline.Stamp(t.GetCreated()), Expires: cmdline.Stamp(t.GetExpires()),
	}
	for _, u := range t.GetUsed() {
		out.Used = append(out.Used, tokenUse{u.GetNode(), cmdline.Stamp(u.GetAt())})
	}
	switch {
	case !a.Now().Before(t.GetExpires().AsTime()):
		out.State = "expired"
	case out.Left == 0:
		out.State = "used up"
	}
	return out
}

// createdToken is what join-token create prints.
type createdToken struct {
	Text      string   `json:"text"`
	Addresses []string `json:"addresses"`
	Token     token    `json:"token"`
}

func (a *nouns) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join-token",
		Short: "Let new machines get their certificates by themselves",
		Long: `Make, list and revoke tokens by which new machines get their certificates by
themselves. A token holds a hash of the cluster's authority, so that a machine
sees that it is the right cluster before it tells its secret. The cluster keeps a
hash of the secret alone.

It takes a node with ca.key in its tls_dir; docs/security.md says what that means.`,
	}
	cmd.AddCommand(a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
	return cmd
}

func (a *nouns) tokenCreateCommand() *cobra.Command {
	var ttl, node string
	var uses int32
	c := &cobra.Command{
		Use:   "create",
		Short: "Make a token",
		Long: `Make a token. It is shown this once. On the new machine, with a node.yaml that
has a cluster section, put TOKEN@HOST:PORT into a file that only the relay reads:

    clrelay serve --config /etc/clrelay/node.yaml --join-file FILE`,
		Example: "clrelay cluster join-token create --node mx4 --ttl 1h",
		Args:    cmdline.AtMost[*cobra.Command](0, "the name is given with --node"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			life, err := cmdline.ParseSpan(ttl)
			if err != nil || life < time.Second {
				return cmdline.Usagef(cmd.CommandPath(), "--ttl %s: a time such as 30m, 1h or 2d", ttl)
			}
			if uses < 1 {
				return cmdline.Usagef(cmd.CommandPath(), "--uses %d: from 1 on", uses)
			}
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewJoinTokenServiceClient(conn).Create(ctx, &adminv1.JoinTokenServiceCreateRequest{Node: node, Uses: uses, TtlSeconds: int64(life / time.Second)})
				if err != nil {
					return err
				}
				out := createdToken{Text: res.GetText(), Addresses: append([]string{}, res.GetAddresses()...), Token: a.tokenOf(res.GetToken())}
				return a.printToken(&out)
			})
		},
	}
	c.Flags().StringVar(&ttl, "ttl", "1h", "how `long` it can be used, 30 days at most")
	c.Flags().Int32Var(&uses, "uses", 1, "how `often` it can be used")
	c.Flags().StringVar(&node, "node", "", "the only `name` that it is for (default: any that no node has)")
	return c
}

func (a *nouns) printToken(out *createdToken) error {
	if err := a.Object(out, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, out.Text)
		return err
	}); err != nil {
		return err
	}
	where := "HOST:PORT"
	if len(out.Addresses) > 0 {
		where = out.Addresses[0]
	}
	a.Talk("Token %s, for %s, until %s. It is not shown again.\nOn the new machine: clrelay serve --join-file FILE, where FILE holds the token, then @%s",
		out.Token.ID, cmdline.Plural(int64(out.Token.Uses), "use"), out.Token.Expires.Format(time.RFC3339), where)
	return nil
}

func (a *nouns) tokenListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the tokens, without their secrets",
		Long:  `List the tokens, without their secrets. Those that ended stay in it for a week.`,
		Args:  cmdline.AtMost[*cobra.Command](0, "all are listed"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				res, err := adminv1.NewJoinTokenServiceClient(conn).List(ctx, &adminv1.JoinTokenServiceListRequest{})
				if err != nil {
					return err
				}
				l := a.List("ID", "STATE", "NODE", "LEFT", "EXPIRES", "AUTHOR", "USED BY")
				for _, t := range res.GetTokens() {
					row := a.tokenOf(t)
					if err := l.Row(row, row.cells()...); err != nil {
						return err
					}
				}
				return l.End()
			})
		},
	}
}

func (t *token) cells() []string {
	node, used := "any", "-"
	if t.Node != "" {
		node = t.Node
	}
	var by []string
	for _, u := range t.Used {
		by = append(by, u.Node)
	}
	if len(by) > 0 {
		used = strings.Join(by, " ")
	}
	return []string{
		cmdline.Cell(t.ID, 20), t.State, cmdline.Cell(node, 64), fmt.Sprintf("%d of %d", t.Left, t.Uses), t.Expires.Format(time.RFC3339),
		cmdline.Cell(t.Author, 70), cmdline.Cell(used, 100),
	}
}

func (a *nouns) tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "Make a token useless",
		Long: `Make a token useless. Certificates that machines got for it stay valid: "node
remove" keeps such a machine out.`,
		Example: "clrelay cluster join-token revoke k3rmx2qa",
		Args:    cmdline.Exactly[*cobra.Command](1, "one ID, as join-token list shows it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				if _, err := adminv1.NewJoinTokenServiceClient(conn).Revoke(ctx, &adminv1.JoinTokenServiceRevokeRequest{Id: args[0]}); err != nil {
					return err
				}
				out := struct {
					ID string `json:"id"`
				}{args[0]}
				return a.Object(out, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "token %s is revoked\n", out.ID)
					return err
				})
			})
		},
	}
}
