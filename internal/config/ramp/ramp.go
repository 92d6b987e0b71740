// Package ramp reads what the section warm_up of a pool is written in: days,
// and amounts for a day.
package ramp

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// Date is a day, which begins at midnight UTC.
type Date struct{ time.Time }

// Parse reads what stands in a file.
func (d *Date) Parse(text string) error {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return fmt.Errorf("%q is no day: write the year, month and day, as in 2026-11-01", text)
	}
	*d = Date{t}
	return nil
}

// String writes it as a file would.
func (d Date) String() string { return d.Format(time.DateOnly) }

// Kind names the type.
func (*Date) Kind() string { return "date" }

// PerDay is how many messages may go on one day.
type PerDay int64

var perDayForm = regexp.MustCompile(`^([1-9]\d{0,11})/d$`)

// Parse reads what stands in a file.
func (p *PerDay) Parse(text string) error {
	m := perDayForm.FindStringSubmatch(text)
	if m == nil {
		if _, err := strconv.Atoi(text); err == nil {
			return fmt.Errorf("%q has no unit: write /d behind it for messages a day, as in %s/d", text, text)
		}
		return fmt.Errorf("%q is no number of messages a day: write at least 1 and /d, as in 50/d", text)
	}
	n, _ := strconv.ParseInt(m[1], 10, 64) // twelve digits at most
	*p = PerDay(n)
	return nil
}

// String writes it as a file would.
func (p PerDay) String() string { return strconv.FormatInt(int64(p), 10) + "/d" }

// Kind names the type.
func (*PerDay) Kind() string { return "messages a day" }
