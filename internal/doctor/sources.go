package doctor

import (
	"context"
	"slices"
	"strings"
)

// sources looks at own addresses as a receiver does: an address ought to have a
// name that leads back to it, and EHLO ought to say a name that does.
func (n *Node) sources(ctx context.Context, f *Facts) []Finding {
	return each(f.Sources, func(s Source) Finding {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		return n.source(ctx, &s)
	})
}

func (n *Node) source(ctx context.Context, s *Source) Finding {
	const unsure = "%s (%s): its reverse DNS cannot be told: %v"
	switch {
	case s.Err != nil:
		return ok("sources", "%s: this machine does not have the address %s: %v", s.Name, s.Addr, s.Err).
			but(Fail, "give the machine that address (ip address add), or take the source out of node.yaml: until then its mail leaves from other sources of the pool, or waits")
	case !s.Addr.IsGlobalUnicast() || s.Addr.IsPrivate():
		return ok("sources", "%s (%s) is there; it is no public address, so nobody else sees it", s.Name, s.Addr)
	}
	names, err := n.DNS.Names(ctx, s.Addr)
	if err != nil {
		return unknown("sources", unsure, s.Name, s.Addr, err)
	}
	if len(names) == 0 {
		return ok("sources", "%s: the address %s has no name (PTR)", s.Name, s.Addr).
			but(Warn, "many receivers refuse mail from it: whoever gave you the address sets its name, best %s", s.Hello)
	}
	confirmed := false
	for _, name := range append(names[:min(len(names), 5)], s.Hello) {
		addrs, err := n.DNS.Addrs(ctx, name)
		if err != nil {
			return unknown("sources", unsure, s.Name, s.Addr, err)
		}
		leads := slices.Contains(addrs, s.Addr)
		if name == s.Hello && !leads {
			return ok("sources", "%s: EHLO says %s, which does not lead to %s", s.Name, s.Hello, s.Addr).
				but(Warn, "set hostname of the source to the name of its address, %s, or give %s that address", strings.TrimSuffix(names[0], "."), s.Hello)
		}
		confirmed = confirmed || leads && name != s.Hello
	}
	good := ok("sources", "%s: %s is %s, and back", s.Name, s.Addr, strings.TrimSuffix(names[0], "."))
	if !confirmed && !slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(strings.TrimSuffix(name, "."), s.Hello) }) {
		return ok("sources", "%s: the name of %s, %s, does not lead back to it", s.Name, s.Addr, strings.TrimSuffix(names[0], ".")).
			but(Warn, "give that name the address, or have the name of the address (PTR) set to %s", s.Hello)
	}
	return good
}
