package limit

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

func fieldNames() [Fields]string {
	return [Fields]string{"sender", "sender_domain", "user", "group", "client", "domain", "site", "source", "route"}
}

// String is the field's name in cluster.yaml and in keys.
func (f Field) String() string {
	if f >= Fields {
		return "field " + strconv.Itoa(int(f))
	}
	return fieldNames()[f]
}

// ParseField reads what String writes.
func ParseField(s string) (Field, bool) {
	for i, name := range fieldNames() {
		if s == name {
			return Field(i), true
		}
	}
	return 0, false
}

// String is the side's name in cluster.yaml.
func (s Side) String() string {
	if s == Receive {
		return "receiving"
	}
	return "delivery"
}

// String is the unit's name in cluster.yaml.
func (u Unit) String() string {
	switch u {
	case Recipients:
		return "recipients"
	case Octets:
		return "octets"
	}
	return "messages"
}

// String is the policy's name in cluster.yaml.
func (p Partition) String() string {
	switch p {
	case Stop:
		return "stop"
	case Full:
		return "full"
	}
	return "floor"
}

// String says which part of a limit it is, in keys, metrics and logs.
func (k Kind) String() string {
	switch k {
	case KindConnections:
		return "connections"
	case KindBudget:
		return "budget"
	case KindSuspended:
		return "suspended"
	}
	return "rate"
}

// MaxRate bounds the N of a Rate.
const MaxRate = 1 << 50

// ParseRate reads a rate: a whole number from 1 on, a slash, and s, m, h or d.
func ParseRate(s string) (Rate, error) {
	n, per, ok := strings.Cut(s, "/")
	unit, known := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[per]
	if !ok || !known {
		return Rate{}, fmt.Errorf("%q is no rate: it is a number, a slash and s, m, h or d, as in 60/s", s)
	}
	v, err := strconv.ParseInt(n, 10, 64)
	if err != nil || v < 1 || v > MaxRate || n[0] == '+' {
		return Rate{}, fmt.Errorf("%q is no rate: before the slash stands a whole number from 1 to %d", s, int64(MaxRate))
	}
	return Rate{N: v, Per: unit}, nil
}

// String writes what ParseRate reads; other periods are written as durations.
func (r Rate) String() string {
	per := map[time.Duration]string{time.Second: "s", time.Minute: "m", time.Hour: "h", 24 * time.Hour: "d"}[r.Per]
	if per == "" {
		per = r.Per.String()
	}
	return strconv.FormatInt(r.N, 10) + "/" + per
}

// PerNano is the rate in tokens a nanosecond.
func (r Rate) PerNano() float64 {
	if r.Per <= 0 {
		return 0
	}
	return float64(r.N) / float64(r.Per)
}

// MaxName bounds a limit's name, in octets.
const MaxName = 300

// Check says what is wrong with a definition, for whoever wrote it.
func (d *Definition) Check() error {
	if err := checkName(d.Name); err != nil {
		return err
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("limit %q: "+format, append([]any{d.Name}, args...)...)
	}
	switch {
	case d.Rate.N == 0 && d.Connections == 0 && d.Budget.N == 0 && !d.Suspended:
		return bad("it has no rate, no connections and no budget: it needs one of them")
	case d.Rate.N < 0 || d.Rate.N > MaxRate || d.Rate.N > 0 && d.Rate.Per <= 0:
		return bad("its rate %v is none", d.Rate)
	case d.Rate.N > 0 && (d.Burst < 1 || d.Burst > MaxRate):
		return bad("its burst is %d: a rate needs one of 1 to %d", d.Burst, int64(MaxRate))
	case d.Connections < 0 || d.Connections > 1<<30:
		return bad("it has %d connections", d.Connections)
	case d.Budget.N < 0 || d.Budget.N > MaxRate || d.Budget.N > 0 && d.Budget.Per != time.Hour && d.Budget.Per != 24*time.Hour:
		return bad("its budget %v is none: it is for an hour or a day, as in 1000/d", d.Budget)
	case d.Side > Receive || d.Count > Octets || d.OnPartition > Full:
		return bad("it has a side, unit or policy that does not exist")
	}
	seen := [Fields]bool{}
	for _, f := range d.Per {
		if f >= Fields || seen[f] {
			return bad("it counts by %v twice, or there is no such field", f)
		}
		seen[f] = true
	}
	for f, values := range d.Match {
		for _, v := range values {
			if err := CheckMatch(Field(f), v); err != nil {
				return bad("%v", err)
			}
		}
	}
	return nil
}

func checkName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("limit %.40q: a name has 1 to %d octets", name, MaxName)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || c == '#' || c == ',' {
			return fmt.Errorf("limit %q: a name has no spaces, no # and no comma, and ASCII alone", name)
		}
	}
	return nil
}

// CheckMatch says what is wrong with a value of Match.
func CheckMatch(f Field, v string) error {
	switch {
	case v == "":
		return fmt.Errorf("an empty %v matches nothing", f)
	case len(v) > 1000:
		return fmt.Errorf("the %v %.40q... is longer than 1000 octets", f, v)
	case f == Client:
		_, err := ParseNetwork(v)
		return err
	case strings.ContainsRune(v, 0):
		return fmt.Errorf("the %v %q holds a NUL", f, v)
	}
	if base, wild := strings.CutPrefix(v, "*."); wild && (f == RecipientDomain || f == SenderDomain || f == Site) {
		v = base
	}
	if strings.Contains(v, "*") && (f == RecipientDomain || f == SenderDomain || f == Site) {
		return fmt.Errorf("the %v %q: an asterisk stands alone before the first dot, as in *.example.org", f, v)
	}
	if f != User && f != Group && f != Source && f != Route && f != Sender && v != strings.ToLower(v) {
		return fmt.Errorf("the %v %q has capital letters: names are compared in small ones", f, v)
	}
	return nil
}

// ParseNetwork reads a value of Match for Client: a network or an address.
func ParseNetwork(v string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(v); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("the client %q has a zone, which means nothing on other machines", v)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(v)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("the client %q is no address and no network", v)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, errors.New("a network of mapped addresses has 96 bits at least")
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// Network is what a client counts as: an IPv4 address, or all of an IPv6 /64.
func Network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		p, err := a.Prefix(64)
		if err == nil {
			return p.Addr()
		}
	}
	return a
}

// NetworkText is the network that a client counts as, in words.
func NetworkText(a netip.Addr) string {
	a = Network(a)
	if a.Is6() && !a.Is4In6() {
		return netip.PrefixFrom(a, 64).String()
	}
	return a.Unmap().String()
}
