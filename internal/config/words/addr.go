package words

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"

	"github.com/clrelay/clrelay/internal/mail"
)

// Listen is an address to listen on. The zero value listens nowhere.
type Listen struct {
	Addr netip.Addr // the zero Addr stands for all addresses of the machine
	Port uint16
	on   bool
}

// IsZero tells whether nothing is to be listened on.
func (l Listen) IsZero() bool { return !l.on }

// String gives what net.Listen("tcp", ...) takes.
func (l Listen) String() string {
	switch {
	case !l.on:
		return ""
	case !l.Addr.IsValid():
		return ":" + strconv.Itoa(int(l.Port))
	}
	return netip.AddrPortFrom(l.Addr, l.Port).String()
}

// Parse reads what stands in a file.
func (l *Listen) Parse(text string) error {
	const form = `write ":25", "127.0.0.1:25" or "[::1]:25"`
	if strings.HasPrefix(text, "/") || strings.HasPrefix(text, "unix:") {
		return fmt.Errorf("%q is a unix socket, and an address with a port is wanted: %s", text, form)
	}
	if _, err := parsePort(text); err == nil {
		return fmt.Errorf("%q is a port alone: write \":%s\" for all addresses, or \"127.0.0.1:%s\"", text, text, text)
	}
	if a, err := netip.ParseAddr(text); err == nil {
		i := strings.LastIndexByte(text, ':')
		if _, err := netip.ParseAddr(text[:max(i, 0)]); err == nil {
			return fmt.Errorf("%q: IPv6 addresses stand in brackets here, %q", text, "["+text[:i]+"]"+text[i:])
		}
		return fmt.Errorf("%q has no port: write %q", text, netip.AddrPortFrom(a, 25))
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return fmt.Errorf("%q is no listen address: %s", text, form)
	}
	n, err := parsePort(port)
	if err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	var addr netip.Addr
	switch host {
	case "":
	case "*":
		return fmt.Errorf("%q: for all addresses write %q", text, ":"+port)
	case "localhost":
		return fmt.Errorf("%q: write an address, \"127.0.0.1:%s\" or \"[::1]:%s\"", text, port, port)
	default:
		if addr, err = netip.ParseAddr(host); err != nil {
			return fmt.Errorf("%q: %q is no IP address; %s", text, host, form)
		}
	}
	*l = Listen{Addr: addr.Unmap(), Port: n, on: true}
	return nil
}

// Kind names the type.
func (*Listen) Kind() string { return "listen address" }

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || strings.HasPrefix(s, "+") {
		return 0, fmt.Errorf("%q is no port: 1 to 65535", s)
	}
	return uint16(n), nil
}

// Network is a range of IP addresses. IPv4 is always written as IPv4.
type Network struct{ netip.Prefix }

// Parse reads what stands in a file.
func (n *Network) Parse(text string) error {
	const form = `write "10.0.0.0/8", "192.0.2.1" or "2001:db8::/32"`
	host, bits, cut := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	switch {
	case err != nil && !cut && looksLikeName(text):
		return fmt.Errorf("%q is a name: networks are written as addresses; %s", text, form)
	case err != nil || addr.Zone() != "":
		return fmt.Errorf("%q is no network: %s", text, form)
	case host[0] == '[':
		return fmt.Errorf("%q: a network has no brackets; write %q", text, strings.Trim(host, "[]")+strings.TrimPrefix(text, host))
	case !cut:
		*n = Network{netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())}
		return nil
	}
	if mask, err := netip.ParseAddr(bits); err == nil && mask.Is4() && addr.Is4() {
		if ones, size := net.IPMask(mask.AsSlice()).Size(); size != 0 {
			return fmt.Errorf("%q: write the mask as a number of bits, %q", text, fmt.Sprintf("%s/%d", host, ones))
		}
	}
	size, err := strconv.Atoi(bits)
	if err != nil || size < 0 || size > addr.BitLen() || bits != strconv.Itoa(size) {
		return fmt.Errorf("%q: the number behind / is 0 to %d", text, addr.BitLen())
	}
	if addr.Is4In6() {
		if size < 96 {
			return fmt.Errorf("%q holds all of IPv4 and more: write \"0.0.0.0/0\" if that is meant", text)
		}
		addr, size = addr.Unmap(), size-96
	}
	p := netip.PrefixFrom(addr, size)
	if p.Masked() != p {
		return fmt.Errorf("%q has bits set behind its first %d: write %q, or %q for that one address", text, size, p.Masked(), addr)
	}
	*n = Network{p}
	return nil
}

// Kind names the type.
func (*Network) Kind() string { return "network" }

func looksLikeName(s string) bool {
	return strings.ContainsAny(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") && !strings.Contains(s, ":")
}

// Prefixes takes the networks out of their wrapping.
func Prefixes(ns []Network) []netip.Prefix {
	out := make([]netip.Prefix, len(ns))
	for i, n := range ns {
		out[i] = n.Prefix
	}
	return out
}

// Domain is a domain name in lower-case A-labels (RFC 5890 2.3.2.1), without
// a dot at its end.
type Domain string

// Parse reads what stands in a file.
func (d *Domain) Parse(text string) error {
	a, err := DomainName(text)
	if err != nil {
		return err
	}
	*d = Domain(a)
	return nil
}

// Kind names the type.
func (*Domain) Kind() string { return "domain" }

// DomainName checks a name and turns it into lower-case A-labels.
func DomainName(text string) (string, error) {
	switch {
	case strings.Contains(text, "@"):
		return "", fmt.Errorf("%q is a mail address, and a domain is wanted: %q", text, text[strings.LastIndex(text, "@")+1:])
	case strings.HasPrefix(text, "["):
		return "", fmt.Errorf("%q is an address literal, and a domain is wanted", text)
	case strings.HasPrefix(text, "*"):
		return "", fmt.Errorf("%q is a pattern, and a domain is wanted: list each one", text)
	case strings.HasPrefix(text, "."):
		return "", fmt.Errorf("%q: leave the dot at the beginning out; in a route %q is all below the domain", text, "*"+text)
	case strings.HasSuffix(text, "."):
		return "", fmt.Errorf("%q: leave the dot at the end out", text)
	}
	if _, err := netip.ParseAddr(text); err == nil {
		return "", fmt.Errorf("%q is an IP address, and a domain is wanted", text)
	}
	// VerifyDNSLength has to be asked for: without it labels of 64 octets and
	// empty ones pass.
	p := idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))
	a, err := p.ToASCII(text)
	// A character that the mapping takes away can leave a dot at the end.
	if again, err2 := p.ToASCII(a); err != nil || err2 != nil || a == "" || again != a || strings.HasSuffix(a, ".") {
		return "", fmt.Errorf("%q is no domain name", text)
	}
	return a, nil
}

// Pattern matches domains: "example.edu" that one, "*.example.edu" all below
// it and not itself. It is in lower-case A-labels.
type Pattern string

// Parse reads what stands in a file.
func (p *Pattern) Parse(text string) error {
	base, wild := strings.CutPrefix(text, "*.")
	if text == "*" {
		return errors.New(`"*" is no pattern: for every domain leave the list out, as in match: {}`)
	}
	if strings.Contains(base, "*") {
		return fmt.Errorf("%q: a star stands only at the beginning, as in \"*.example.edu\"", text)
	}
	a, err := DomainName(base)
	if err != nil {
		return err
	}
	if wild {
		a = "*." + a
	}
	*p = Pattern(a)
	return nil
}

// Kind names the type.
func (*Pattern) Kind() string { return "domain pattern" }

// Host is a smarthost: a domain in lower-case A-labels or an IP address
// without brackets, and a port.
type Host struct {
	Name string
	Port uint16 // 0 while none was given
}

// String writes it as a file would.
func (h Host) String() string { return net.JoinHostPort(h.Name, strconv.Itoa(int(h.Port))) }

// Parse reads what stands in a file.
func (h *Host) Parse(text string) error {
	name, port, err := splitHost(text)
	if err != nil {
		return err
	}
	if a, err := netip.ParseAddr(name); err == nil {
		*h = Host{a.Unmap().String(), port}
		return nil
	}
	if name, err = DomainName(name); err != nil {
		return err
	}
	*h = Host{name, port}
	return nil
}

// Kind names the type.
func (*Host) Kind() string { return "host:port" }

// Address is the IP address, without brackets, or the domain of a machine,
// without a port.
type Address string

// Parse reads what stands in a file.
func (a *Address) Parse(text string) error {
	if ip, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		if ip.IsUnspecified() {
			return fmt.Errorf("%q stands for all addresses of the machine, and one that others reach is wanted", text)
		}
		*a = Address(ip.Unmap().String())
		return nil
	}
	if host, port, err := net.SplitHostPort(text); err == nil {
		return fmt.Errorf("%q: leave the port %s out, %q", text, port, host)
	}
	name, err := DomainName(text)
	if err != nil {
		return err
	}
	*a = Address(name)
	return nil
}

// Kind names the type.
func (*Address) Kind() string { return "address or name" }

// IP is an address of a machine, IPv4 or IPv6.
type IP struct{ netip.Addr }

// Parse reads what stands in a file.
func (i *IP) Parse(text string) error {
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	switch {
	case err != nil || a.Zone() != "":
		return fmt.Errorf("%q is no IP address: write 192.0.2.10 or \"2001:db8::10\"", text)
	case a.IsUnspecified() || a.IsMulticast():
		return fmt.Errorf("%q is no address of one machine", text)
	}
	*i = IP{a.Unmap()}
	return nil
}

// Kind names the type.
func (*IP) Kind() string { return "IP address" }

// splitHost takes "name", "name:port", "192.0.2.1", "[2001:db8::1]:25".
func splitHost(text string) (name string, port uint16, err error) {
	if i := strings.Index(text, "://"); i >= 0 {
		return "", 0, fmt.Errorf("%q is a URL: write host:port", text)
	}
	if a, err := netip.ParseAddr(text); err == nil {
		if a.Is6() {
			return "", 0, fmt.Errorf("%q: IPv6 addresses stand in brackets here, %q", text, "["+text+"]")
		}
		return text, 0, nil
	}
	inner, bracketed := strings.CutPrefix(text, "[")
	if inner, found := strings.CutSuffix(inner, "]"); bracketed && found {
		name, bracketed = inner, true
	} else if !strings.Contains(text, ":") {
		name = text
	} else {
		var p string
		if name, p, err = net.SplitHostPort(text); err != nil {
			return "", 0, fmt.Errorf("%q is no host:port: write \"mail.example.edu:25\" or \"[2001:db8::1]:25\"", text)
		}
		if port, err = parsePort(p); err != nil || port == 0 {
			return "", 0, fmt.Errorf("%q: %q is no port: 1 to 65535", text, p)
		}
	}
	if bracketed {
		if a, err := netip.ParseAddr(name); err != nil || !a.Is6() || a.Zone() != "" {
			return "", 0, fmt.Errorf("%q: only IPv6 addresses stand in brackets", text)
		}
	}
	if name == "" {
		return "", 0, fmt.Errorf("%q has no host", text)
	}
	return name, port, nil
}

// Server is a DNS server: an IP address and a port, 53 unless one is given.
type Server struct{ netip.AddrPort }

// Parse reads what stands in a file.
func (s *Server) Parse(text string) error {
	if a, err := netip.ParseAddr(text); err == nil {
		*s = Server{netip.AddrPortFrom(a.Unmap(), 53)}
		return nil
	}
	if ap, err := netip.ParseAddrPort(text); err == nil && ap.Port() != 0 {
		*s = Server{netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())}
		return nil
	}
	return fmt.Errorf("%q is no DNS server: write an IP address, with a port if it is not 53: \"127.0.0.1:53\", \"[::1]:53\"", text)
}

// Kind names the type.
func (*Server) Kind() string { return "address of a DNS server" }

// Mailbox is a mail address with a domain.
type Mailbox struct{ mail.Address }

// Parse reads what stands in a file.
func (m *Mailbox) Parse(text string) error {
	if strings.HasPrefix(text, "<") || strings.HasSuffix(text, ">") {
		return fmt.Errorf("%q: leave < and > out", text)
	}
	a, err := mail.ParseMailbox(text, true)
	if err != nil {
		return fmt.Errorf("%q is no mail address: write postmaster@example.edu", text)
	}
	*m = Mailbox{a}
	return nil
}

// Kind names the type.
func (*Mailbox) Kind() string { return "mail address" }
