// Package explain answers what the relay would do with mail to an address: the
// same policy, routes, resolver and memory as for real mail are asked, and
// nothing is queued.
package explain

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/delivery/source"
	"github.com/clrelay/clrelay/delivery/source/warmup"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/names"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// probeWait is how long a next hop may take to say what it would say, address
// by address.
const probeWait = 20 * time.Second

// Policy says who may send what; smtpd/policy's Chain.
type Policy interface {
	Recipient(client *mail.Client, from mail.Address, to *mail.Recipient) mail.Verdict
}

// Router says where mail goes; delivery/route's Table.
type Router interface {
	Route(sender, domain string) (mail.NextHop, *mail.Reply)
	Rule(domain string) (int, bool)
}

// Hosts finds and asks next hops; delivery's Agent.
type Hosts interface {
	Candidates(ctx context.Context, hop mail.NextHop) ([]delivery.Candidate, []mail.Reply)
	Probe(ctx context.Context, hop mail.NextHop, c delivery.Candidate, env *mail.Envelope) (delivery.Probed, error)
}

// Lanes shows destinations; delivery/queue's Runner.
type Lanes interface {
	Destinations(visit func(*queue.Lane))
}

// Returns know return paths; delivery/returns' Returns.
type Returns interface {
	Recipient(to mail.Address) (mine bool, v mail.Verdict)
	Hop(domain string) (mail.NextHop, bool)
}

// Settings are those in force, with what was made of them.
type Settings struct {
	Name    string // what the configuration is called
	Cluster *config.Cluster
	Pools   []source.Pool // those of Cluster, with the sources of this node
	WarmUps []warmup.Ramp
	Router  Router
}

// Service is the TestService of a node. Now gives what is in force at the
// moment of a call.
type Service struct {
	adminv1.UnimplementedTestServiceServer
	Node   string
	Policy func() Policy // nil while the relay starts
	Now    func() Settings
	Hosts  Hosts
	Lanes  Lanes

	Returns Returns
}

// Address is of TestService.
func (s *Service) Address(ctx context.Context, req *adminv1.AddressRequest) (*adminv1.AddressResponse, error) {
	policy := s.Policy()
	if policy == nil {
		return nil, fmt.Errorf("%w: the relay is starting", admin.ErrUnavailable)
	}
	rcpt, err := mail.ParseMailbox(strings.TrimSpace(req.GetAddress()), true)
	if strings.EqualFold(req.GetAddress(), mail.Postmaster) {
		rcpt, err = mail.Address{Local: mail.Postmaster}, nil
	}
	if err != nil {
		return nil, admin.InvalidError(fmt.Sprintf("the address %q: %v", req.GetAddress(), err))
	}
	q := &question{s: s, set: s.Now(), client: mail.Client{}, to: mail.Recipient{Addr: rcpt}}
	if f := req.GetFrom(); f != "" && f != "<>" {
		if q.from, err = mail.ParseMailbox(f, true); err != nil {
			return nil, admin.InvalidError(fmt.Sprintf("the sender %q: %v", f, err))
		}
	}
	if c := req.GetClient(); c != "" {
		if q.client.Addr, err = netip.ParseAddr(c); err != nil {
			return nil, admin.InvalidError(fmt.Sprintf("the client %q is no IP address", c))
		}
		q.client.Addr = q.client.Addr.Unmap()
	}
	q.lines = func(string) int { return 0 }
	if q.set.Cluster.Text != nil {
		q.lines = config.Lines(q.set.Cluster.Text)
	}
	out := &adminv1.AddressResponse{Node: s.Node, Config: q.set.Name}
	if mine, verdict := s.Returns.Recipient(rcpt); mine {
		q.returned(verdict, out)
		return out, nil
	}
	q.admission(policy, out)
	q.route(ctx, out, req.GetProbe())
	return out, nil
}

// returned answers about a return path: the relay itself works on what comes to
// it, whoever sends it.
func (q *question) returned(verdict mail.Verdict, out *adminv1.AddressResponse) {
	line := int32(q.lines("returns"))
	out.Rcpt = q.to.Addr.String()
	out.Admission = &adminv1.Admission{Allowed: verdict == nil, Setting: "returns", Line: line}
	out.Route = &adminv1.RouteChoice{Setting: "returns", Line: line}
	if verdict != nil {
		out.Admission.Reply, out.Route.Reply = verdict.Line(), verdict.Line()
		return
	}
	if hop, ok := q.s.Returns.Hop(q.to.Addr.Domain); ok { // the settings may have changed in between
		out.Route.Kind, out.Route.Destination, out.Destination = "returns", hop.Key, q.destination(hop.Key)
	}
}

// question is one address that is asked about.
type question struct {
	s      *Service
	set    Settings
	lines  func(key string) int
	client mail.Client
	from   mail.Address
	to     mail.Recipient
}

// admission asks the policy, and finds the setting that it went by.
func (q *question) admission(policy Policy, out *adminv1.AddressResponse) {
	asked := q.to.Addr
	verdict := policy.Recipient(&q.client, q.from, &q.to)
	a := &adminv1.Admission{Allowed: verdict == nil}
	out.Admission, out.Rcpt = a, q.to.Addr.String()
	set := func(key string, i int, name string) {
		a.Setting, a.Name = key+"["+strconv.Itoa(i)+"]", name
		a.Line = int32(q.lines(a.Setting))
	}
	switch {
	case verdict != nil:
		a.Reply = verdict.Line()
	case q.to.Addr != asked || asked.IsPostmaster() && asked.Domain == "":
		a.Setting, a.Name = "postmaster", q.to.Addr.String()
		if !q.set.Cluster.Postmaster.IsNull() {
			a.Line = int32(q.lines("postmaster"))
		}
	default:
		i := slices.IndexFunc(q.set.Cluster.Domains, func(d config.LocalDomain) bool { return sameDomain(string(d.Name), asked.Domain) })
		if i >= 0 {
			set("domains", i, string(q.set.Cluster.Domains[i].Name))
		} else if name := q.client.Sender; name != "" {
			set("senders", slices.IndexFunc(q.set.Cluster.Senders, func(e config.Sender) bool { return string(e.Name) == name }), name)
		}
	}
}

// route finds the next hop and asks what is known of it.
func (q *question) route(ctx context.Context, out *adminv1.AddressResponse, probe bool) {
	domain := q.to.Addr.Domain
	r := &adminv1.RouteChoice{}
	out.Route = r
	i, ok := q.set.Router.Rule(domain)
	if ok {
		r.Setting = "routes[" + strconv.Itoa(i) + "]"
		r.Line = int32(q.lines(r.Setting))
	}
	hop, reply := q.set.Router.Route(q.client.Sender, domain)
	if reply != nil {
		r.Reply = reply.Line()
		return
	}
	r.Destination = hop.Key
	r.Kind = map[mail.HopKind]string{mail.HopMX: "mx", mail.HopSmarthost: "smarthost", mail.HopLMTP: "lmtp"}[hop.Kind]
	out.Tls, out.TlsReason = tls(&hop, r.Setting)
	out.Destination = q.destination(hop.Key)
	out.Pool = q.pool(hop.Pool, r.Setting)
	hosts, notes := q.s.Hosts.Candidates(ctx, hop)
	for _, h := range hosts {
		one := &adminv1.NextHost{
			Name: h.Name, Address: h.Addr.String(), Preference: int32(h.Pref), Silent: h.Silent, Plain: h.Plain,
			Source: h.Source.Name, Refused: h.Answer.Refused,
		}
		if h.Answer.Greeting > 0 {
			one.Greeting = durationpb.New(h.Answer.Greeting)
		}
		out.Hosts = append(out.Hosts, one)
	}
	for i := range notes {
		out.Notes = append(out.Notes, text(notes[i].Error()))
	}
	if probe {
		out.Probe = q.probe(ctx, hop, hosts)
	}
}

// tls says how a hop is spoken to, and why.
func tls(hop *mail.NextHop, rule string) (mode, why string) {
	implicit := ""
	if slices.ContainsFunc(hop.Hosts, func(h mail.HostPort) bool { return h.Port == 465 }) && hop.Kind == mail.HopSmarthost {
		implicit = "; on port 465 TLS from the start"
	}
	switch {
	case hop.TLS == mail.TLSNone:
		return "none", rule + " says tls: none"
	case hop.TLS == mail.TLSVerify:
		return "verify", rule + " says tls: verify: the certificate must be valid for the host" + implicit
	case hop.TLS == mail.TLSRequire:
		return "require", rule + " says tls: require: without STARTTLS no mail goes out, whatever the certificate" + implicit
	case hop.Auth != nil:
		return "require", rule + " says auth: a password never goes out in the clear" + implicit
	}
	return "opportunistic", "the default: STARTTLS where it is offered, whatever the certificate; after a failed handshake in the clear" + implicit
}

func (q *question) destination(key string) *adminv1.Destination {
	d := &adminv1.Destination{Name: key, State: "unknown", Max: int64(q.set.Cluster.Deliver.PerDestination)}
	q.s.Lanes.Destinations(func(l *queue.Lane) {
		if l.Key == key {
			d = Destination(l)
			d.Max = int64(q.set.Cluster.Deliver.PerDestination)
		}
	})
	d.Node = q.s.Node
	return d
}

// Destination gives what travels of a lane.
func Destination(l *queue.Lane) *adminv1.Destination {
	d := &adminv1.Destination{
		Name: text(l.Key), State: l.State, Running: int64(l.Running), Limit: int64(l.Limit),
		Waiting: int64(l.Ready), Recipients: int64(l.Recipients),
	}
	if l.Why != nil {
		d.Reason = text(l.Why.Line())
	}
	if !l.Next.IsZero() {
		d.NextTry = timestamppb.New(l.Next)
	}
	return d
}

// probe asks the first host that answers.
func (q *question) probe(ctx context.Context, hop mail.NextHop, hosts []delivery.Candidate) *adminv1.HopProbe {
	out := &adminv1.HopProbe{Error: "there is no host to ask"}
	env := &mail.Envelope{From: q.from, Recipients: []mail.Recipient{q.to}, SMTPUTF8: q.from.NeedsUTF8() || q.to.Addr.NeedsUTF8()}
	for i, h := range hosts {
		if i == 5 || ctx.Err() != nil {
			break
		}
		ctx, cancel := context.WithTimeout(ctx, probeWait)
		p, err := q.s.Hosts.Probe(ctx, hop, h, env)
		cancel()
		out = &adminv1.HopProbe{Remote: text(p.Remote), Extensions: p.Offers.Words(), Tls: p.TLS, Rcpt: "accepted"}
		switch {
		case err != nil:
			out.Error, out.Rcpt = text(cause(err)), ""
			continue
		case p.Rcpt != nil:
			out.Rcpt = text(p.Rcpt.Line())
		}
		break
	}
	return out
}

// cause leaves out where in the program an error came from.
func cause(err error) string {
	var r *mail.Reply
	if errors.As(err, &r) {
		return r.Error()
	}
	return err.Error()
}

// sameDomain compares a name of the configuration with one of an address.
func sameDomain(ours, theirs string) bool {
	return ours != "" && names.Fold(ours) == names.Fold(theirs)
}

// text makes a string of foreign origin fit for protobuf.
func text(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
