// Package policy decides who may relay through the server: clients in the
// networks of the setting senders for any recipient, everybody for recipients
// in the setting domains, and nobody else. Without settings it is nobody for
// nothing.
//
// It does no I/O and knows no SMTP; a Chain is smtpd's Policy. Recipient
// is called by many sessions at once, Reload by anyone at any time: a question
// is answered by the settings of one moment. It never fails.
package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/names"
)

// Sender is an entry of the setting senders.
type Sender struct {
	Name     string
	Networks []netip.Prefix
}

// Options are the settings.
type Options struct {
	Senders []Sender
	Domains []string // exact names; mail for them is taken from anybody
	// Postmaster is where mail for <postmaster> goes (RFC 5321 4.5.1). When
	// it is the zero Address, it is postmaster at the first of Domains, whose
	// mail has a place to go, and without domains at Hostname.
	Postmaster mail.Address
	Hostname   string // our own name; <postmaster@Hostname> is <postmaster>
}

// Chain answers the server's questions.
type Chain struct {
	rules atomic.Pointer[rules]
}

type network struct {
	prefix netip.Prefix
	sender string
}

type rules struct {
	networks   []network
	domains    map[string]struct{}
	postmaster mail.Address
	hostname   string
}

// New builds a chain. The error names the setting that is wrong.
func New(o Options) (*Chain, error) {
	c := &Chain{}
	if err := c.Reload(o); err != nil {
		return nil, err
	}
	return c, nil
}

// Reload puts other settings in force, all at once. With an error nothing
// changes.
func (c *Chain) Reload(o Options) error {
	r := &rules{domains: map[string]struct{}{}, postmaster: o.Postmaster}
	for _, s := range o.Senders {
		for _, n := range s.Networks {
			if !n.IsValid() {
				return fmt.Errorf("policy: senders: %s: a network is no network", s.Name)
			}
			r.networks = append(r.networks, network{unmapped(n), s.Name})
		}
	}
	for _, d := range o.Domains {
		key, err := names.Normalize(d)
		if err != nil {
			return fmt.Errorf("policy: domains: %q: %w", d, err)
		}
		r.domains[key] = struct{}{}
	}
	if o.Hostname != "" {
		key, err := names.Normalize(o.Hostname)
		if err != nil {
			return fmt.Errorf("policy: host name %q: %w", o.Hostname, err)
		}
		r.hostname = key
	}
	if r.postmaster.IsNull() {
		at := o.Hostname
		if len(o.Domains) > 0 {
			at = o.Domains[0]
		}
		r.postmaster = mail.Address{Local: mail.Postmaster, Domain: at}
	}
	if r.postmaster.Domain == "" {
		return errors.New("policy: postmaster: neither an address nor a domain or host name to make one of")
	}
	c.rules.Store(r)
	return nil
}

// unmapped turns a network of IPv4-mapped IPv6 addresses into that of IPv4:
// clients are known by the latter.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked()
	}
	return p.Masked()
}

// Connect lets every client in: what it may do is decided at RCPT.
func (c *Chain) Connect(*mail.Client) mail.Verdict { return nil }

// Sender lets every sender through: what it may do is decided at RCPT. It notes
// in the client which entry of senders it is in, whomever it writes to.
func (c *Chain) Sender(client *mail.Client, _ mail.Address) mail.Verdict {
	client.Sender = c.Entry(client.Addr)
	return nil
}

// Recipient tells whether the client may send to a recipient, and rewrites
// <postmaster>. It notes the entry of senders as Sender does: the settings may
// be others by now.
func (c *Chain) Recipient(client *mail.Client, _ mail.Address, to *mail.Recipient) mail.Verdict {
	r := c.rules.Load()
	client.Sender = r.entry(client.Addr)
	key, err := "", error(nil)
	if to.Addr.Domain != "" {
		key, err = names.Normalize(to.Addr.Domain)
	}
	if to.Addr.IsPostmaster() && (to.Addr.Domain == "" || err == nil && key == r.hostname) {
		to.Addr = r.postmaster
		return nil
	}
	if err != nil {
		return mail.NewReply(553, "5.1.2", "The domain of the recipient is not a name").WithCause(err)
	}
	if _, ok := r.domains[key]; ok {
		return nil
	}
	if client.Sender != "" {
		return nil
	}
	return denied(client.Addr)
}

// Entry names the entry of senders that the client's address is in; "" for none.
func (c *Chain) Entry(a netip.Addr) string { return c.rules.Load().entry(a) }

func (r *rules) entry(a netip.Addr) string {
	for _, n := range r.networks {
		if n.prefix.Contains(a) {
			return n.sender
		}
	}
	return ""
}

// Ours tells whether a domain is one of the setting domains.
func (c *Chain) Ours(domain string) bool {
	if domain == "" {
		return false
	}
	key, err := names.Normalize(domain)
	_, ok := c.rules.Load().domains[key]
	return err == nil && ok
}

// denied names the setting, so that whoever reads the bounce knows what to
// change, and nothing of what it holds.
func denied(a netip.Addr) *mail.Reply {
	who := "this client"
	if a.IsValid() {
		who = a.String()
	}
	return mail.NewReply(550, "5.7.1", "Relaying denied: "+who+
		" is in no network of the setting senders, and the recipient's domain is not in domains."+
		" To let it relay, add its network to senders in cluster.yaml")
}
