// Package trial is the noun test of the command line: what the relay would do,
// and whether it does it.
package trial

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

type noun struct {
	*cmdline.Console
	with Connect
}

// Commands makes the command test.
func Commands(c *cmdline.Console, with Connect) *cobra.Command {
	n := &noun{c, with}
	cmd := &cobra.Command{Use: "test", Short: "Try out where mail goes and whether it arrives"}
	cmd.AddCommand(n.addressCommand(), n.sendCommand(), n.sinkCommand())
	return cmd
}

// probeTimeout bounds a look at an address: five hosts may take 20 s each.
const probeTimeout = 2 * time.Minute

func (n *noun) addressCommand() *cobra.Command {
	req := &adminv1.AddressRequest{}
	cmd := &cobra.Command{
		Use:   "address ADDRESS",
		Short: "Show what the relay would do with mail to an address",
		Long: `Show what the relay would do with mail to an address: whether a client may
send it and which setting says so, the route, the hosts as the relay's own
resolver finds them, how they would be spoken to, and the connections to the
destination now. It is the node that is asked whose memory and connections are
shown. Without --client the client is a stranger.

--probe connects to the next hop as a delivery would and asks about the
recipient: EHLO, STARTTLS, MAIL, RCPT, and no message.

The exit code is 8 where the mail would not be taken, has nowhere to go, or was
refused by the next hop.`,
		Example: `  clrelay test address a.ng@partner.example --from payroll@example.edu --client 10.3.1.8
  clrelay test address a.ng@partner.example --probe`,
		Args: cmdline.Exactly[*cobra.Command](1, "one address is needed"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Address = args[0]
			return n.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), probeTimeout)
				defer cancel()
				res, err := adminv1.NewTestServiceClient(conn).Address(ctx, req)
				if err != nil {
					return err
				}
				return n.printAddress(res)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.From, "from", "", "sender `address`; left out: the null reverse-path")
	f.StringVar(&req.Client, "client", "", "`IP` address of the client")
	f.BoolVar(&req.Probe, "probe", false, "connect to the next hop and ask it")
	return cmd
}

// address is what test address prints.
type address struct {
	Node        string      `json:"node"`
	Rcpt        string      `json:"rcpt"`
	Config      string      `json:"config"`
	Allowed     bool        `json:"allowed"`
	AllowedBy   string      `json:"allowed_by"`
	AllowedLine int32       `json:"allowed_line"`
	Reply       string      `json:"reply"`
	Route       string      `json:"route"`
	RouteLine   int32       `json:"route_line"`
	Kind        string      `json:"kind"`
	RouteReply  string      `json:"route_reply"`
	Hosts       []host      `json:"hosts"`
	Pool        *pool       `json:"pool"`
	Notes       []string    `json:"notes"`
	TLS         string      `json:"tls"`
	TLSReason   string      `json:"tls_reason"`
	Destination destination `json:"destination"`
	Probe       *probe      `json:"probe"`
}

type host struct {
	Name       string  `json:"name"`
	Address    string  `json:"address"`
	Preference *int32  `json:"preference"`
	Silent     bool    `json:"silent"`
	Plain      bool    `json:"plain"`
	Source     string  `json:"source"`
	GreetingMS *int64  `json:"greeting_ms"`
	Refused    float64 `json:"refused"`
}

// returns is the kind of route of return paths.
const returns = "returns"

// pool is what mail leaves from.
type pool struct {
	Name      string   `json:"name"`
	Setting   string   `json:"setting"`
	Line      int32    `json:"line"`
	Spread    string   `json:"spread"`
	OnMissing string   `json:"on_missing"`
	Sources   []member `json:"sources"`
}

type member struct {
	Name     string `json:"name"`
	Weight   int32  `json:"weight"`
	Address  string `json:"address"`
	Hostname string `json:"hostname"`
	Trouble  string `json:"trouble"`
	WarmUp   string `json:"warm_up"`
}

func poolOut(p *adminv1.PoolChoice) *pool {
	if p == nil {
		return nil
	}
	out := &pool{p.GetName(), p.GetSetting(), p.GetLine(), p.GetSpread(), p.GetOnMissing(), []member{}}
	for _, m := range p.GetMembers() {
		out.Sources = append(out.Sources, member{m.GetName(), m.GetWeight(), m.GetAddress(), m.GetHello(), m.GetTrouble(), m.GetWarmUp()})
	}
	return out
}

type destination struct {
	Name       string     `json:"name"`
	State      string     `json:"state"`
	Running    int64      `json:"running"`
	Limit      int64      `json:"limit"`
	Max        int64      `json:"max"`
	Waiting    int64      `json:"waiting"`
	Recipients int64      `json:"recipients"`
	Reason     string     `json:"reason"`
	NextTry    *time.Time `json:"next_try"`
}

// waits is what the destination's reason is about: of one that is not down, it is
// the limit that its mail, or that of some senders, waits for.
func (d *destination) waits() string {
	if d.State == "down" {
		return "down"
	}
	return "limited"
}

type probe struct {
	Remote     string   `json:"remote"`
	Extensions []string `json:"extensions"`
	TLS        string   `json:"tls"`
	Rcpt       string   `json:"rcpt"`
	Error      string   `json:"error"`
}

func addressOut(r *adminv1.AddressResponse) *address {
	d := r.GetDestination()
	out := &address{
		Node: r.GetNode(), Rcpt: r.GetRcpt(), Config: r.GetConfig(),
		Allowed: r.GetAdmission().GetAllowed(), AllowedBy: r.GetAdmission().GetSetting(), AllowedLine: r.GetAdmission().GetLine(), Reply: r.GetAdmission().GetReply(),
		Route: r.GetRoute().GetSetting(), RouteLine: r.GetRoute().GetLine(), Kind: r.GetRoute().GetKind(), RouteReply: r.GetRoute().GetReply(),
		Hosts: []host{}, Pool: poolOut(r.GetPool()), Notes: append([]string{}, r.GetNotes()...), TLS: r.GetTls(), TLSReason: r.GetTlsReason(),
		Destination: destination{d.GetName(), d.GetState(), d.GetRunning(), d.GetLimit(), d.GetMax(), d.GetWaiting(), d.GetRecipients(), d.GetReason(), cmdline.Stamp(d.GetNextTry())},
	}
	for _, h := range r.GetHosts() {
		one := host{Name: h.GetName(), Address: h.GetAddress(), Silent: h.GetSilent(), Plain: h.GetPlain(), Source: h.GetSource(), Refused: h.GetRefused()}
		if g := h.GetGreeting(); g != nil {
			ms := g.AsDuration().Milliseconds()
			one.GreetingMS = &ms
		}
		if p := h.GetPreference(); p >= 0 {
			one.Preference = &p
		}
		out.Hosts = append(out.Hosts, one)
	}
	if p := r.GetProbe(); p != nil {
		out.Probe = &probe{p.GetRemote(), append([]string{}, p.GetExtensions()...), p.GetTls(), p.GetRcpt(), p.GetError()}
	}
	return out
}

func (n *noun) printAddress(r *adminv1.AddressResponse) error {
	out := addressOut(r)
	if err := n.Object(out, func(w io.Writer) error { return n.addressTable(w, r, out) }); err != nil {
		return err
	}
	switch {
	case !out.Allowed:
		return cmdline.Exitf(cmdline.ExitFindings, "mail to %s would not be taken", out.Rcpt)
	case out.Kind == returns:
		return nil
	case out.RouteReply != "" || len(out.Hosts) == 0:
		return cmdline.Exitf(cmdline.ExitFindings, "mail to %s has nowhere to go", out.Rcpt)
	case out.Probe != nil && out.Probe.Error != "":
		return cmdline.Exitf(cmdline.ExitFindings, "the next hop could not be asked")
	case out.Probe != nil && out.Probe.Rcpt != "accepted":
		return cmdline.Exitf(cmdline.ExitFindings, "the next hop does not take %s now", out.Rcpt)
	}
	return nil
}

// addressTable writes one fact a line.
func (n *noun) addressTable(w io.Writer, r *adminv1.AddressResponse, a *address) error {
	var err error
	row := func(what, format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, "%s\t%s\n", what, cmdline.Cell(fmt.Sprintf(format, args...), 200))
		}
	}
	adm := r.GetAdmission()
	switch by := place(adm.GetSetting(), adm.GetName(), a.Config, a.AllowedLine); {
	case !a.Allowed:
		row("refused", "%s", a.Reply)
	case by == "":
		row("allowed", "the relay's own postmaster")
	default:
		row("allowed", "%s", by)
	}
	row("rcpt", "%s", a.Rcpt)
	if a.RouteReply != "" {
		row("route", "none: %s", a.RouteReply)
		return err
	}
	row("route", "%s  %s", a.Kind, place(a.Route, "", a.Config, a.RouteLine))
	if a.Kind == returns {
		row("", "what comes back for mail that went out: read here, and then done with")
		return err
	}
	for i, h := range a.Hosts {
		pref, state := "", ""
		if h.Preference != nil {
			pref = fmt.Sprintf(" (%d)", *h.Preference)
		}
		if h.Silent {
			state += "  did not answer lately: tried last"
		}
		if h.Plain {
			state += "  TLS failed lately: in the clear for now"
		}
		row([]string{"hosts", ""}[min(i, 1)], "%s%s %s%s", h.Name, pref, h.Address, state+h.answers())
	}
	a.Pool.rows(a, row)
	for _, note := range a.Notes {
		row("note", "%s", note)
	}
	row("tls", "%s: %s", a.TLS, a.TLSReason)
	d := &a.Destination
	now := ""
	if d.Limit > 0 {
		now = fmt.Sprintf(", %d as it bears them now", d.Limit)
	}
	row("connections", "%d%s, %d at most (deliver.per_destination), on %s", d.Running, now, d.Max, a.Node)
	row("destination", "%s  %s, %s in the queue, %d due", d.Name, d.State, cmdline.Plural(d.Recipients, "recipient"), d.Waiting)
	if d.Reason != "" {
		row(d.waits(), "%s", d.Reason)
	}
	switch p := a.Probe; {
	case p == nil:
		row("probe", "--probe connects to the next hop (EHLO, STARTTLS, RCPT; no message)")
	case p.Error != "":
		row("probe", "%s: %s", p.Remote, p.Error)
	default:
		facts := p.TLS
		if facts == "" {
			facts = "in the clear"
		}
		row("probe", "%s  %s", p.Remote, facts)
		row("", "%s", strings.Join(p.Extensions, ", "))
		row("", "RCPT: %s", p.Rcpt)
	}
	return err
}

// answers says why a host comes before or behind others.
func (h *host) answers() (s string) {
	if h.Source != "" {
		s += "  from " + h.Source
	}
	if h.GreetingMS != nil {
		s += fmt.Sprintf("  greets in %d ms", *h.GreetingMS)
	}
	if h.Refused >= 0.05 {
		s += fmt.Sprintf("  turned away %.0f %% lately", 100*h.Refused)
	}
	return s
}

// rows write what the mail would leave from.
func (p *pool) rows(a *address, row func(what, format string, args ...any)) {
	if p == nil {
		return
	}
	row("pool", "%s  %s", p.Name, place(p.Setting, "", a.Config, p.Line))
	here := 0
	for _, m := range p.Sources {
		state := m.Address
		if m.Hostname != "" {
			state += "  EHLO " + m.Hostname
		}
		switch {
		case m.Address == "":
			state = "not on " + a.Node
		case m.Trouble != "":
			state += "  " + m.Trouble
		default:
			here++
		}
		if m.WarmUp != "" {
			state += "  " + m.WarmUp
		}
		row("", "%s (%d) %s", m.Name, m.Weight, state)
	}
	switch {
	case here > 1 && p.Spread == "message":
		row("", "each message leaves from one of them")
	case here == 0 && p.OnMissing == "wait":
		row("", "%s has none of them: the mail waits", a.Node)
	case here == 0:
		row("", "%s has none of them: the system chooses the address", a.Node)
	}
}

// place says where a setting stands.
func place(setting, name, config string, line int32) string {
	if setting == "" {
		return ""
	}
	if name != "" {
		setting += " " + name
	}
	if line == 0 {
		return setting
	}
	return fmt.Sprintf("%s  (%s line %d)", setting, config, line)
}
