package mail

import (
	"strconv"
	"strings"
	"time"
)

// By is the BY parameter of MAIL (RFC 2852): by when a message is to be
// delivered. The zero value is none.
type By struct {
	At     time.Time // millisecond precision is kept; it may be past when Return is not set
	Return bool      // it is given up then; false: its sender is told, and it is tried on
	Trace  bool      // each hop is to tell the sender that it has passed it on
}

// maxSeconds is the largest number of seconds that RFC 2852 4 and RFC 4865 3
// have room for.
const maxSeconds = 999_999_999

// ParseHoldFor reads the value of HOLDFOR (RFC 4865 3): whole seconds, from 1
// to 999999999.
func ParseHoldFor(s string) (time.Duration, error) {
	n, ok := seconds(s)
	if !ok || n == 0 {
		return 0, paramError("HOLDFOR is a number of seconds, 1 to 999999999")
	}
	return time.Duration(n) * time.Second, nil
}

// ParseHoldUntil reads the value of HOLDUNTIL (RFC 4865 3): a date and time
// with its zone (RFC 3339 5.6).
func ParseHoldUntil(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, strings.ToUpper(s))
	if err != nil || len(s) > 35 {
		return time.Time{}, paramError("HOLDUNTIL is a time as in 2030-01-31T08:00:00Z")
	}
	return t, nil
}

// ParseBy reads the value of BY (RFC 2852 4): seconds from now, and what is to
// be done then. With R they are 1 at least; with N they may be past.
func ParseBy(s string, now time.Time) (By, error) {
	number, mode, ok := strings.Cut(s, ";")
	digits := strings.TrimLeft(number, "+-")
	n, sound := seconds(digits)
	by := By{}
	switch strings.ToUpper(mode) {
	case "R":
		by.Return = true
	case "RT":
		by.Return, by.Trace = true, true
	case "N":
	case "NT":
		by.Trace = true
	default:
		ok = false
	}
	if !ok || !sound || len(number) > len(digits)+1 {
		return By{}, paramError("BY is a number of seconds, a semicolon, and R or N, perhaps with T")
	}
	if number[0] == '-' {
		n = -n
	}
	if by.Return && n <= 0 {
		return By{}, paramError("BY with R is a second at least")
	}
	by.At = now.Add(time.Duration(n) * time.Second)
	return by, nil
}

// Value is what follows BY= at now; empty when there is nothing to say. What
// is to be given up has a second at least.
func (b By) Value(now time.Time) string {
	if b.At.IsZero() {
		return ""
	}
	n, mode := b.Left(now), ";N"
	if b.Return {
		n, mode = max(n, 1), ";R"
	}
	if b.Trace {
		mode += "T"
	}
	return strconv.FormatInt(n, 10) + mode
}

// Left is how many whole seconds there are from now on, within what a BY can
// say.
func (b By) Left(now time.Time) int64 {
	return min(max(int64(b.At.Sub(now)/time.Second), -maxSeconds), maxSeconds)
}

func seconds(s string) (int64, bool) {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && len(s) <= 9 && n <= maxSeconds
}
