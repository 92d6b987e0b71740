package limits

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/route"
	"github.com/clrelay/clrelay/internal/admin/fleet"
	"github.com/clrelay/clrelay/internal/config"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Routes is the RouteService of a node.
type Routes struct {
	adminv1.UnimplementedRouteServiceServer
	Set   func() Settings
	Lanes Lanes
	Fleet fleet.Fleet
}

// ListRoutes is of RouteService.
func (s *Routes) ListRoutes(ctx context.Context, req *adminv1.ListRoutesRequest) (*adminv1.ListRoutesResponse, error) {
	all := s.own()
	out := &adminv1.ListRoutesResponse{}
	if !req.GetLocal() {
		answers := fleet.Ask(ctx, s.Fleet.Others(ctx, false), askWait, func(ctx context.Context, p fleet.Peer) (*adminv1.ListRoutesResponse, error) {
			return adminv1.NewRouteServiceClient(p.Conn).ListRoutes(ctx, &adminv1.ListRoutesRequest{Local: true})
		})
		out.MissingNodes = fleet.Each(answers, func(r *adminv1.ListRoutesResponse) error { return add(all, r.GetRoutes()) })
	}
	if req.GetDomain() == "" && req.GetName() == "" {
		out.Routes = all
		return out, nil
	}
	if d := req.GetDomain(); d != "" {
		if to, err := asked(d); err == nil {
			d = to
		}
		i, ok := s.Set().Router.Rule(d)
		if !ok {
			_, reply := s.Set().Router.Route("", d)
			if reply != nil {
				out.Reply = text(reply.Line())
			}
			return out, nil
		}
		out.Routes = all[i : i+1]
		return out, nil
	}
	for _, r := range all {
		if r.GetName() == req.GetName() || r.GetSetting() == req.GetName() {
			out.Routes = append(out.Routes, r)
		}
	}
	if len(out.Routes) == 0 {
		return nil, status.Errorf(codes.NotFound, "there is no route %q; clrelay route list shows those there are", text(req.GetName()))
	}
	return out, nil
}

// own gives the routes, with what this node has queued.
func (s *Routes) own() (list []*adminv1.RouteEntry) {
	set := s.Set()
	for i := range set.Cluster.Routes {
		list = append(list, entry(set.Cluster, i))
	}
	s.Lanes.Destinations(func(l *queue.Lane) {
		i, ok := set.Router.Leads(l.Key)
		if !ok || i >= len(list) || l.Recipients == 0 {
			return // an operator has sent it elsewhere, or the routes were others
		}
		list[i].Recipients += int64(l.Recipients)
		list[i].Destinations++
		if l.State == "down" {
			list[i].Down++
		}
	})
	return list
}

func entry(c *config.Cluster, i int) *adminv1.RouteEntry {
	r := &c.Routes[i]
	e := &adminv1.RouteEntry{Name: c.RouteName(i), Setting: fmt.Sprintf("routes[%d]", i), Kind: "mx", Tls: r.Action.TLS}
	for _, d := range r.Match.Domains {
		e.Domains = append(e.Domains, string(d))
	}
	for _, h := range r.Action.Smarthost {
		e.Kind = "smarthost"
		e.Hosts = append(e.Hosts, net.JoinHostPort(h.Name, strconv.Itoa(int(h.Port))))
	}
	if r.Action.LMTP {
		e.Kind = "lmtp"
	}
	return e
}

// add counts what another node has queued. One with other routes is left out.
func add(all, theirs []*adminv1.RouteEntry) error {
	if len(all) != len(theirs) {
		return fmt.Errorf("%d routes there, %d here", len(theirs), len(all))
	}
	for i, r := range theirs {
		all[i].Recipients += r.GetRecipients()
		all[i].Destinations = max(all[i].Destinations, r.GetDestinations())
		all[i].Down = max(all[i].Down, r.GetDown())
	}
	return nil
}

// asked is the domain of what an operator asks about: a domain, or an address.
func asked(destination string) (string, error) {
	d := strings.TrimSpace(destination)
	if at := strings.LastIndexByte(d, '@'); at >= 0 {
		d = d[at+1:]
	}
	return route.Normalize(d)
}
