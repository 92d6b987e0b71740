// Package warmup says how much may leave from a new address on a day.
//
// Receivers distrust an address that they do not know and that sends much at
// once. A Ramp is a budget for each of its first days, by UTC; what it comes to
// at a moment is a limit.Definition like any other, so that the whole cluster
// holds to it. Everything here is a function of the configuration and the time:
// all nodes and every restart come to the same.
package warmup

import (
	"fmt"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
)

const day = 24 * time.Hour

// Author is that of the definitions.
const Author = "warm-up"

// Ramp is the warm-up of a source.
type Ramp struct {
	Source  string
	Since   time.Time // midnight UTC of the first day
	Days    []int64   // messages on each; after the last there is no limit
	PerSite bool      // they count for each site that receives; false: for all together
}

// Gentle and Normal are ramps that are made already.
func Gentle() []int64 {
	return []int64{
		50, 75, 100, 150, 200, 300, 400, 500, 700, 1000, 1200, 1500, 2000, 2500,
		3000, 4000, 5000, 6000, 8000, 10000, 12000, 15000, 18000, 22000, 27000, 33000, 40000, 50000,
	}
}

// Normal is a ramp of half the length of Gentle.
func Normal() []int64 {
	return []int64{100, 200, 400, 700, 1000, 1500, 2500, 4000, 6000, 10000, 15000, 25000, 35000, 50000}
}

// Name is that of the definition for a source.
func Name(source string) string { return Author + ":" + source }

// Definition is the limit of the day; ok is false where there is none any
// more. Before the first day the source is suspended.
func (r *Ramp) Definition(now time.Time) (d limit.Definition, ok bool) {
	d = limit.Definition{Name: Name(r.Source), Side: limit.Deliver, Count: limit.Messages, Author: Author}
	d.Match[limit.Source] = []string{r.Source}
	since := r.Since.UTC().Truncate(day)
	today := now.UTC().Truncate(day)
	if today.Before(since) {
		d.Suspended, d.Until = true, since
		d.Reason = fmt.Sprintf("the warm-up of %s begins on %s", r.Source, since.Format(time.DateOnly))
		return d, true
	}
	n := int64(today.Sub(since) / day)
	if n >= int64(len(r.Days)) {
		return limit.Definition{}, false
	}
	whom := "in all"
	d.Per = []limit.Field{limit.Source}
	if r.PerSite {
		whom = "for each site"
		d.Per = append(d.Per, limit.Site)
	}
	messages := "1 message"
	if r.Days[n] != 1 {
		messages = fmt.Sprintf("%d messages", r.Days[n])
	}
	d.Budget = limit.Rate{N: r.Days[n], Per: day}
	d.Until = Next(now)
	d.Reason = fmt.Sprintf("day %d of %d of the warm-up of %s: %s %s", n+1, len(r.Days), r.Source, messages, whom)
	return d, true
}

// Definitions are the limits of the day, of all ramps that have not ended.
func Definitions(ramps []Ramp, now time.Time) (out []limit.Definition) {
	for i := range ramps {
		if d, ok := ramps[i].Definition(now); ok {
			out = append(out, d)
		}
	}
	return out
}

// Next is when the definitions of a moment are to be made anew.
func Next(now time.Time) time.Time { return now.UTC().Truncate(day).Add(day) }
