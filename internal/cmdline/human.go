package cmdline

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Count writes a number with commas: 1,204.
func Count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Plural writes a number and its noun: "1 message", "2 messages".
func Plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return Count(n) + " " + noun + "s"
}

// Size writes octets in binary units: 48.2 KiB.
func Size(n int64) string {
	if n < 1<<10 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f /= 1 << 10; f < 1000 {
			break
		}
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + unit
}

// ParseSize reads octets: 500, 64KiB, 10MiB, 2GiB.
func ParseSize(s string) (int64, error) {
	num, unit := s, int64(1)
	for name, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(s, name); ok {
			num, unit = rest, u
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(num), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is no size such as 500, 64KiB or 10MiB", s)
	}
	return int64(n) * unit, nil
}

// Span writes a duration in its two greatest units: 3h12m.
func Span(d time.Duration) string {
	d = max(0, d)
	const day = 24 * time.Hour
	switch {
	case d >= day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// ParseSpan reads a duration as time.ParseDuration does, and days and weeks
// as well: 90s, 1h30m, 5d, 2w.
func ParseSpan(s string) (time.Duration, error) {
	text, total := s, time.Duration(0)
	for _, u := range []struct {
		name string
		d    time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		num, rest, ok := strings.Cut(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(num, 10, 32)
		if err != nil || n > 100_000 {
			return 0, fmt.Errorf("%q is no duration such as 90s, 2h or 5d", s)
		}
		total, text = total+time.Duration(n)*u.d, rest
		if text == "" {
			return total, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no duration such as 90s, 2h or 5d", s)
	}
	return total + d, nil
}
