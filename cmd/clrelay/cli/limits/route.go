package limits

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// hop is a route as the commands print it.
type hop struct {
	Name         string   `json:"name"`
	Setting      string   `json:"setting"`
	Domains      []string `json:"domains"`
	Kind         string   `json:"kind"`
	Hosts        []string `json:"hosts"`
	TLS          string   `json:"tls"`
	Recipients   int64    `json:"recipients"`
	Destinations int64    `json:"destinations"`
	Down         int64    `json:"down"`
}

func showRoute(r *adminv1.RouteEntry) hop {
	return hop{
		r.GetName(), r.GetSetting(), append([]string{}, r.GetDomains()...), r.GetKind(), append([]string{}, r.GetHosts()...), r.GetTls(),
		r.GetRecipients(), r.GetDestinations(), r.GetDown(),
	}
}

func (h *hop) domains() string {
	if len(h.Domains) == 0 {
		return "all"
	}
	return strings.Join(h.Domains, ",")
}

func (h *hop) leads() string {
	if h.Kind == "mx" {
		return "mx"
	}
	return h.Kind + " " + strings.Join(h.Hosts, ",")
}

func (n *nouns) routeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "route",
		Short: "See where mail goes",
		Long: `See where mail goes: the routes of the cluster's configuration in their order, of
which the first that matches is taken, and how much is queued by each.`,
	}
	list := &cobra.Command{
		Use:   "list",
		Short: "List the routes, with what is queued by each",
		Args:  cmdline.AtMost[*cobra.Command](0, "it lists all routes; clrelay route show takes the name of one"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return n.routes(cmd, &adminv1.ListRoutesRequest{}, func(res *adminv1.ListRoutesResponse) error {
				out := n.List("ROUTE", "DOMAINS", "LEADS TO", "TLS", "RECIPIENTS", "DESTINATIONS", "DOWN")
				for _, r := range res.GetRoutes() {
					h := showRoute(r)
					if err := out.Row(h, h.Name, cmdline.Cell(h.domains(), 50), cmdline.Cell(h.leads(), 60), h.TLS, cmdline.Count(h.Recipients), cmdline.Count(h.Destinations), cmdline.Count(h.Down)); err != nil {
						return err
					}
				}
				return out.End()
			})
		},
	}
	show := &cobra.Command{
		Use:   "show ROUTE",
		Short: "Show a route",
		Args:  cmdline.Exactly[*cobra.Command](1, "it takes the name of a route: clrelay route list shows them"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return n.routes(cmd, &adminv1.ListRoutesRequest{Name: args[0]}, func(res *adminv1.ListRoutesResponse) error {
				return n.oneRoute(res)
			})
		},
	}
	test := &cobra.Command{
		Use:   "test DESTINATION",
		Short: "Show which route mail for a domain takes",
		Long: `Show which route mail for a domain or an address takes, without sending any. What else would
become of mail to an address, clrelay test address tells. The exit code is 3 where
no route is for the domain.`,
		Example: "  clrelay route test partner.example",
		Args:    cmdline.Exactly[*cobra.Command](1, "it takes a domain or an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return n.routes(cmd, &adminv1.ListRoutesRequest{Domain: args[0]}, func(res *adminv1.ListRoutesResponse) error {
				if len(res.GetRoutes()) == 0 {
					return cmdline.Exitf(exitNotFound, "no route is for %s, and mail for it bounces: %s", args[0], res.GetReply())
				}
				return n.oneRoute(res)
			})
		},
	}
	cmd.AddCommand(list, show, test)
	return cmd
}

// exitNotFound is the exit code of what is not there.
const exitNotFound = 3

func (n *nouns) routes(cmd *cobra.Command, req *adminv1.ListRoutesRequest, f func(*adminv1.ListRoutesResponse) error) error {
	return n.with(func(conn grpc.ClientConnInterface) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
		defer cancel()
		res, err := adminv1.NewRouteServiceClient(conn).ListRoutes(ctx, req)
		if err != nil {
			return err
		}
		if err := f(res); err != nil {
			return err
		}
		return missing(res.GetMissingNodes())
	})
}

func (n *nouns) oneRoute(res *adminv1.ListRoutesResponse) error {
	h := showRoute(res.GetRoutes()[0])
	return n.Object(h, func(w io.Writer) error {
		name := h.Name
		if h.Setting != name { // one without a name is called by its setting
			name += " (" + h.Setting + ")"
		}
		_, err := fmt.Fprintf(w, "%s is for %s and leads to %s, TLS %s.\n%s in the queue go this way, to %s, of which %d %s down.\n",
			name, h.domains(), h.leads(), h.TLS, cmdline.Plural(h.Recipients, "recipient"), cmdline.Plural(h.Destinations, "destination"), h.Down, is(h.Down))
		return err
	})
}

func is(n int64) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
