package route

import "github.com/clrelay/clrelay/internal/names"

// ErrDomain is wrapped by the errors of Normalize.
var ErrDomain = names.ErrDomain

// Normalize gives the one form of a domain that routes, queues and the DNS
// know it by: lower-case A-labels without a final dot, or an address literal
// in its canonical form.
func Normalize(domain string) (string, error) { return names.Normalize(domain) }
