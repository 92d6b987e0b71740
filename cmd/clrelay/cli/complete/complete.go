// Package complete offers live names to the shell: nodes, domains and IDs in
// the queue, versions of the configuration, clients that are locked out. A shell
// waits for it at every press of a key: what does not answer at once is not offered.
package complete

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// patience is how long a shell is kept waiting.
const patience = 300 * time.Millisecond

// most is how many names are offered.
const most = 50

// Connect connects to a relay, calls f, and explains its errors.
type Connect func(f func(conn grpc.ClientConnInterface) error) error

// source gives names.
type source func(ctx context.Context, conn grpc.ClientConnInterface) ([]string, error)

// Attach offers names to the commands of a tree, by what stands in their usage
// lines and by the names of their flags.
func Attach(root *cobra.Command, with Connect) {
	flags := map[string]source{"node": nodes, "domain": domains, "id": ids, "version": versions}
	args := map[string]source{"NAME": nodes, "NODE": nodes, "ID": ids, "LIMIT": limits, "ROUTE": routes, "DESTINATION": domains, "DOMAIN": domains, "ADDRESS|NETWORK": clients}
	walk(root, func(c *cobra.Command) {
		for name, s := range flags {
			if c.Flags().Lookup(name) != nil {
				_ = c.RegisterFlagCompletionFunc(name, offer(with, s)) // an error: it has one already
			}
		}
		if c.Flags().Lookup("output") != nil || c.PersistentFlags().Lookup("output") != nil {
			_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(
				[]string{cmdline.FormatTable, cmdline.FormatJSON, cmdline.FormatLines, cmdline.FormatYAML}, cobra.ShellCompDirectiveNoFileComp)) // likewise
		}
		_, usage, _ := strings.Cut(c.Use, " ")
		word, _, _ := strings.Cut(strings.Trim(usage, "[] "), " ")
		if s, ok := args[strings.Trim(word, "[].")]; ok && c.ValidArgsFunction == nil && len(c.ValidArgs) == 0 {
			c.ValidArgsFunction = offer(with, s)
		}
	})
}

func walk(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, sub := range c.Commands() {
		walk(sub, visit)
	}
}

// offer asks the relay while the shell has patience.
func offer(with Connect, s source) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		parent := cmd.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, patience)
		defer cancel()
		var out []string
		err := with(func(conn grpc.ClientConnInterface) error {
			names, err := s(ctx, conn)
			for _, n := range names {
				if strings.HasPrefix(strings.ToLower(n), strings.ToLower(begun)) {
					out = append(out, n)
				}
			}
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func nodes(ctx context.Context, conn grpc.ClientConnInterface) (out []string, err error) {
	st, err := adminv1.NewClusterServiceClient(conn).Status(ctx, &adminv1.ClusterServiceStatusRequest{})
	for _, n := range st.GetNodes() {
		out = append(out, n.GetName())
	}
	return out, err
}

// domains are those with most recipients in the queue, of the node that is
// asked: all nodes would take too long.
func domains(ctx context.Context, conn grpc.ClientConnInterface) (out []string, err error) {
	res, err := adminv1.NewQueueServiceClient(conn).Shape(ctx, &adminv1.ShapeRequest{By: adminv1.ShapeBy_SHAPE_BY_DOMAIN, Limit: most, Local: true})
	for _, r := range res.GetRows() {
		if r.GetName() != "" {
			out = append(out, r.GetName())
		}
	}
	return out, err
}

func ids(ctx context.Context, conn grpc.ClientConnInterface) (out []string, err error) {
	stream, err := adminv1.NewQueueServiceClient(conn).List(ctx, &adminv1.ListRequest{Limit: most, Local: true})
	if err != nil {
		return nil, err
	}
	for {
		batch, err := stream.Recv()
		if err != nil { // its end, or that of the shell's patience: what came is worth something
			return out, nil
		}
		for _, e := range batch.GetEntries() {
			if n := len(out); n == 0 || out[n-1] != e.GetId() {
				out = append(out, e.GetId())
			}
		}
	}
}

func versions(ctx context.Context, conn grpc.ClientConnInterface) (out []string, err error) {
	res, err := adminv1.NewConfigServiceClient(conn).History(ctx, &adminv1.ConfigServiceHistoryRequest{})
	for _, v := range res.GetVersions() {
		out = append(out, fmt.Sprint(v.GetVersion()))
	}
	return out, err
}

func limits(ctx context.Context, conn grpc.ClientConnInterface) (out []string, err error) {
	res, err := adminv1.NewLimitServiceClient(conn).ListLimits(ctx, &adminv1.ListLimitsRequest{})
	for _, l := range res.GetLimits() {
		if len(out) < most {
			out = append(out, l.GetName())
		}
	}
	return out, err
}

func routes(ctx context.Context, conn grpc.ClientConnInterface) (out []string, err error) {
	res, err := adminv1.NewRouteServiceClient(conn).ListRoutes(ctx, &adminv1.ListRoutesRequest{Local: true})
	for _, r := range res.GetRoutes() {
		out = append(out, r.GetName())
	}
	return out, err
}

// clients are those that are locked out.
func clients(ctx context.Context, conn grpc.ClientConnInterface) (out []string, err error) {
	res, err := adminv1.NewLockoutServiceClient(conn).ListLockouts(ctx, &adminv1.ListLockoutsRequest{Limit: most, Local: true})
	for _, c := range res.GetClients() {
		out = append(out, c.GetNetwork())
	}
	return out, err
}
