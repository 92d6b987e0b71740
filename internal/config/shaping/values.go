package shaping

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/config/words"
)

// Site is the name of a site, or the domain of a host.
type Site string

// Parse reads what stands in a file.
func (s *Site) Parse(text string) error {
	if strings.HasPrefix(text, "*.") {
		return fmt.Errorf("%q: write %q, which stands for all hosts below it", text, text[2:])
	}
	var w words.Site
	if err := w.Parse(text); err != nil {
		return err
	}
	*s = Site(w)
	return nil
}

// Kind names the type.
func (*Site) Kind() string { return "domain" }

// Pace is a number of messages in a time.
type Pace struct {
	N   int64
	Per time.Duration
}

var paceForm = regexp.MustCompile(`^(\d{1,12})/(?:(\d{1,6})?([smhd]))$`)

// Parse reads what stands in a file.
func (p *Pace) Parse(text string) error {
	m := paceForm.FindStringSubmatch(text)
	if m == nil {
		return fmt.Errorf("%q is no rate: write a number, a slash and s, m, h or d, as in 60/s, 1000/m, 5000/h", text)
	}
	n, _ := strconv.ParseInt(m[1], 10, 64) // twelve digits at most
	per := int64(1)
	if m[2] != "" {
		per, _ = strconv.ParseInt(m[2], 10, 64)
	}
	if n == 0 || per == 0 {
		return fmt.Errorf("%q: a rate of nothing sends nothing: use suspend for that", text)
	}
	unit := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": words.Day}[m[3]]
	if per > math.MaxInt64/int64(unit) {
		return fmt.Errorf("%q: a time longer than can be counted", text)
	}
	*p = Pace{n, time.Duration(per) * unit}
	return nil
}

// Kind names the type.
func (*Pace) Kind() string { return "rate" }

// halve stands for half of what is in force.
const halve = "halve"

// Slowing is a Pace or half of what is in force.
type Slowing struct {
	Pace
	Halve bool
}

// Parse reads what stands in a file.
func (s *Slowing) Parse(text string) error {
	if text == halve {
		*s = Slowing{Halve: true}
		return nil
	}
	s.Halve = false
	if err := s.Pace.Parse(text); err != nil {
		return fmt.Errorf("%w; or halve", err)
	}
	return nil
}

// Amount is a number, half of what is in force, or what is to be learned.
type Amount struct {
	N            int
	Halve, Learn bool
}

// Parse reads what stands in a file.
func (a *Amount) Parse(text string) error {
	switch text {
	case halve:
		*a = Amount{Halve: true}
		return nil
	case "learn":
		*a = Amount{Learn: true}
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 100_000 {
		return fmt.Errorf("%q is neither a number from 1 to 100000 nor halve or learn", text)
	}
	*a = Amount{N: n}
	return nil
}

// Kind names the type.
func (*Amount) Kind() string { return "number" }

// Code is a code of a reply, or 4 or 5 for all that begin so.
type Code int

// Parse reads what stands in a file.
func (c *Code) Parse(text string) error {
	switch strings.ToLower(text) {
	case "4xx":
		*c = 4
		return nil
	case "5xx":
		*c = 5
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 400 || n > 599 {
		return fmt.Errorf("%q is no code of a refusal: write one from 400 to 599, 4xx or 5xx", text)
	}
	*c = Code(n)
	return nil
}

// Kind names the type.
func (*Code) Kind() string { return "code" }

// Enhanced is an enhanced status code (RFC 3463), "4.7.28".
type Enhanced string

var enhancedForm = regexp.MustCompile(`^[45]\.\d{1,3}\.\d{1,3}$`)

// Parse reads what stands in a file.
func (e *Enhanced) Parse(text string) error {
	if !enhancedForm.MatchString(text) {
		return fmt.Errorf("%q is no enhanced code of a refusal: write one such as 4.7.28", text)
	}
	*e = Enhanced(text)
	return nil
}

// Kind names the type.
func (*Enhanced) Kind() string { return "enhanced code" }

// maxExpression bounds a regular expression: it is held against each refusal.
const maxExpression = 1000

// Expression is a regular expression that does not look at case.
type Expression struct{ *regexp.Regexp }

// Parse reads what stands in a file.
func (e *Expression) Parse(text string) error {
	if text == "" || len(text) > maxExpression {
		return fmt.Errorf("must have 1 to %d characters", maxExpression)
	}
	r, err := regexp.Compile("(?i)" + text)
	if err != nil {
		return fmt.Errorf("%q is no regular expression (RE2): %s", text, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	e.Regexp = r
	return nil
}

// Kind names the type.
func (*Expression) Kind() string { return "regular expression" }

// Trigger is how often something must happen in which time.
type Trigger struct {
	N   int
	Per time.Duration
}

// Parse reads what stands in a file.
func (t *Trigger) Parse(text string) error {
	wrong := fmt.Errorf("%q is no trigger: write how often in which time, as in \"3 in 10m\"", text)
	left, right, ok := strings.Cut(text, " in ")
	n, err := strconv.Atoi(strings.TrimSpace(left))
	if !ok || err != nil || n < 1 || n > 1000 {
		return wrong
	}
	var d words.Duration
	if err := d.Parse(strings.TrimSpace(right)); err != nil || d <= 0 || time.Duration(d) > words.Day {
		return wrong
	}
	*t = Trigger{n, time.Duration(d)}
	return nil
}

// Kind names the type.
func (*Trigger) Kind() string { return "trigger" }

// Line is a reply, as a log shows it.
type Line string

// Parse reads what stands in a file.
func (l *Line) Parse(text string) error {
	if !lineForm.MatchString(text) || len(text) > maxExpression {
		return fmt.Errorf("%q is no reply that refuses: write it with its codes, as in \"421 4.7.0 try again later\"", text)
	}
	*l = Line(text)
	return nil
}

var lineForm = regexp.MustCompile(`^[45]\d\d([ -].*)?$`)

// Kind names the type.
func (*Line) Kind() string { return "reply" }
