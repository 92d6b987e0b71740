package words

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Site is whoever runs mail hosts: the domain that an MX set's hosts belong to,
// "google.com", or a host that a route names, with its port if that is none of
// the usual ones, "127.0.0.1:10026". "*.example.org" stands for all below it.
type Site string

var siteForm = regexp.MustCompile(`^[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9])?$`)

// Parse reads what stands in a file.
func (s *Site) Parse(text string) error {
	low := strings.ToLower(strings.TrimSuffix(text, "."))
	host := strings.TrimPrefix(low, "*.")
	if h, port, err := net.SplitHostPort(host); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("%q: %q is no port", text, port)
		}
		host = h
	}
	if _, err := netip.ParseAddr(host); err != nil && !siteForm.MatchString(host) {
		return fmt.Errorf("%q is no site: write a domain name such as google.com, international ones as A-labels (xn--...), or a host of a route as limit usage shows it", text)
	}
	*s = Site(low)
	return nil
}

// Kind names the type.
func (*Site) Kind() string { return "site" }
