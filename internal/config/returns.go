package config

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/clrelay/clrelay/internal/mail"
)

// Returns gives mail that goes out a return path of our own.
type Returns struct {
	// Domain of the return paths. Its MX records lead to the nodes; it need not be
	// in domains.
	Domain Domain `key:"domain" required:"yes" example:"bounces.example.edu"`
	// File with the key that return paths are made with, the same on all nodes:
	// one line of random characters, such as openssl rand -hex 32 writes. Further
	// lines are keys of before, which are known still. It is read at start and at
	// each reload. Keep it readable for the relay alone: who has it can make return
	// paths.
	KeyFile Path `key:"key_file" required:"yes" example:"returns.key"`
	// Groups of senders whose mail gets a return path. With neither groups nor from
	// all mail does.
	Groups []Name `key:"groups" example:"[campus]"`
	// Envelope senders whose mail gets one: addresses, domains, or "*.example.edu"
	// for all below a domain.
	From []Origin `key:"from" example:"[\"news@example.edu\", \"*.lists.example.edu\"]"`
	// Hand on what comes back to the sender of the original, as if there had been
	// no other return path; to the postmaster where no node remembers him.
	Forward bool `key:"forward" default:"true"`
	// Age of a message from when on nothing that comes back for it is taken.
	MaxAge Duration `key:"max_age" default:"30d" min:"1d" max:"365d"`
}

// Origin matches envelope senders: an address, or a Pattern of domains. It is
// in lower case, its domain in A-labels unless it is that of an address.
type Origin string

// Parse reads what stands in a file.
func (o *Origin) Parse(text string) error {
	if strings.Contains(text, "@") {
		a, err := mail.ParseMailbox(text, true)
		if err != nil {
			return fmt.Errorf("%q is neither an address nor a domain: %w", text, err)
		}
		*o = Origin(strings.ToLower(a.String()))
		return nil
	}
	var p Pattern
	if err := p.Parse(text); err != nil {
		return err
	}
	*o = Origin(p)
	return nil
}

// Kind names the type.
func (*Origin) Kind() string { return "address or domain pattern" }

// minReturnKey is the length of the shortest key.
const minReturnKey = 16

// checkReturns sees that the groups exist, and that the key can be read.
func (s check) checkReturns(c *Cluster) {
	r := c.Returns
	if r == nil {
		return
	}
	for i, g := range r.Groups {
		known := false
		for _, one := range c.Senders {
			known = known || one.Name == g
		}
		if !known {
			s.Bad(fmt.Sprintf("returns.groups[%d]", i), "%q is no entry of senders", g)
		}
	}
	if text := s.readable("returns.key_file", r.KeyFile, true); text != nil {
		if line, _, _ := bytes.Cut(text, []byte("\n")); len(bytes.TrimSpace(line)) < minReturnKey {
			s.Bad("returns.key_file", "the first line of %s has less than %d characters, and is the key: openssl rand -hex 32 writes a good one", r.KeyFile, minReturnKey)
		}
	}
	for _, d := range c.Domains {
		if d.Name == r.Domain && r.Domain != "" {
			s.Warn("returns.domain", "%s is in domains too: mail for it that is no return path goes where its routes say", r.Domain)
		}
	}
}
