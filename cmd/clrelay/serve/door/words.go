package door

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/abuse"
	"github.com/clrelay/clrelay/internal/limit"
	"github.com/clrelay/clrelay/internal/mail"
)

// deny counts a refusal by a limit and words it: "limit NAME of KEY: 100 messages
// a minute; try again in 12 s".
func (d *Door) deny(code int, enhanced string, denied *limit.Denied) *mail.Reply {
	d.Metrics.Denied.Inc(limit.Receive.String(), denied.Kind.String())
	text := "limit " + denied.Limit
	switch denied.Key {
	case "":
	case limit.Others:
		text += " of all others"
	default:
		text += " of " + denied.Key
	}
	if def, ok := d.Limits.Definition(denied.Limit); ok {
		text += ": " + amount(&def, denied.Kind)
	}
	if denied.Reason != "" {
		text += " (" + denied.Reason + ")"
	}
	return mail.NewReply(code, enhanced, text+"; try again in "+span(denied.Left))
}

// amount is how much a limit allows, in words.
func amount(d *limit.Definition, k limit.Kind) string {
	per := func(r limit.Rate) string {
		unit := map[time.Duration]string{time.Second: "a second", time.Minute: "a minute", time.Hour: "an hour", 24 * time.Hour: "a day"}[r.Per]
		if unit == "" {
			unit = "in " + r.Per.String()
		}
		return count(r.N, d.Count.String()) + " " + unit
	}
	switch k {
	case limit.KindConnections:
		return count(int64(d.Connections), "connections") + " at a time"
	case limit.KindBudget:
		return per(d.Budget)
	case limit.KindSuspended:
		return "suspended"
	}
	return per(d.Rate)
}

// count is so many of something whose plural ends in s.
func count(n int64, many string) string {
	if n == 1 {
		many = strings.TrimSuffix(many, "s")
	}
	return strconv.FormatInt(n, 10) + " " + many
}

// locked is the answer to a client that is locked out.
func locked(code int, enhanced string, client netip.Addr, v abuse.Verdict) *mail.Reply {
	return mail.NewReply(code, enhanced, fmt.Sprintf("too many %v from %s; try again in %s", v.Why, limit.NetworkText(client), span(v.Out)))
}

// span is a time to wait, rounded up to what is easily read.
func span(d time.Duration) string {
	up := func(unit time.Duration) int64 { return int64((d + unit - 1) / unit) }
	switch {
	case d > 3*time.Hour:
		return strconv.FormatInt(up(time.Hour), 10) + " h"
	case d > 3*time.Minute:
		return strconv.FormatInt(up(time.Minute), 10) + " min"
	}
	return strconv.FormatInt(max(up(time.Second), 1), 10) + " s"
}
