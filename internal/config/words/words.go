// Package words are the values that a setting of any section may have, as a
// file writes them: durations, sizes, names, paths.
package words

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/config/strict"
)

// Duration is a span of time: a number with s, m, h or d.
type Duration time.Duration

// Day is what d stands for.
const Day = 24 * time.Hour

// String writes it as a file would, in the largest unit that fits.
func (d Duration) String() string {
	t := time.Duration(d)
	for _, u := range durationUnits() {
		if t != 0 && t%u.size == 0 {
			return fmt.Sprintf("%d%s", t/u.size, u.name)
		}
	}
	if t == 0 {
		return "0s"
	}
	return t.String()
}

type durationUnit struct {
	name string
	size time.Duration
}

func durationUnits() []durationUnit {
	return []durationUnit{{"d", Day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}
}

var durationPart = regexp.MustCompile(`^(\d{1,10})([smhd])`)

// Parse reads what stands in a file.
func (d *Duration) Parse(text string) error {
	wrong := fmt.Errorf("%q is no duration: write a number and s, m, h or d, as in 30s, 5m, 1h30m, 5d", text)
	if _, err := strconv.Atoi(text); err == nil {
		return fmt.Errorf("%q has no unit: write s, m, h or d behind it, as in %ss", text, text)
	}
	var sum, last time.Duration = 0, math.MaxInt64
	for rest := text; rest != "" || sum == 0 && last == math.MaxInt64; {
		m := durationPart.FindStringSubmatch(rest)
		if m == nil {
			return wrong
		}
		n, _ := strconv.ParseInt(m[1], 10, 64) // ten digits at most
		unit := map[string]time.Duration{"d": Day, "h": time.Hour, "m": time.Minute, "s": time.Second}[m[2]]
		if unit >= last {
			return wrong
		}
		if time.Duration(n) > (math.MaxInt64-sum)/unit {
			return fmt.Errorf("%q is longer than can be counted", text)
		}
		sum, last, rest = sum+time.Duration(n)*unit, unit, rest[len(m[0]):]
	}
	*d = Duration(sum)
	return nil
}

// Span is it as a program counts.
func (d Duration) Span() time.Duration { return time.Duration(d) }

// Kind names the type.
func (*Duration) Kind() string { return "duration" }

// Size is a number of octets.
type Size int64

type sizeUnit struct {
	name string
	size int64
}

func sizeUnits() []sizeUnit {
	return []sizeUnit{
		{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
		{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3},
	}
}

// String writes it as a file would, in the largest unit that fits.
func (s Size) String() string {
	for _, u := range sizeUnits() {
		if s != 0 && int64(s)%u.size == 0 {
			return fmt.Sprintf("%d%s", int64(s)/u.size, u.name)
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

var sizeForm = regexp.MustCompile(`^(\d{1,18}) ?([A-Za-z]*)$`)

// Parse reads what stands in a file.
func (s *Size) Parse(text string) error {
	wrong := fmt.Errorf("%q is no size: write octets, or a whole number and kB, MB, GB, KiB, MiB, GiB, as in 50MiB", text)
	m := sizeForm.FindStringSubmatch(text)
	if m == nil {
		return wrong
	}
	n, _ := strconv.ParseInt(m[1], 10, 64) // 18 digits at most
	unit := int64(1)
	if m[2] != "" && m[2] != "B" {
		unit = 0
		var names []string
		for _, u := range sizeUnits() {
			names = append(names, u.name)
			if strings.EqualFold(u.name, m[2]) {
				unit = u.size
			}
		}
		if unit == 0 && len(m[2]) == 1 {
			return fmt.Errorf("%q: write %s%sB for powers of 1000, %s%siB for powers of 1024",
				text, m[1], strings.ToUpper(m[2]), m[1], strings.ToUpper(m[2]))
		}
		if unit == 0 {
			return fmt.Errorf("%w%s", wrong, strict.DidYouMean(m[2], names))
		}
	}
	if n > math.MaxInt64/unit {
		return fmt.Errorf("%q is larger than can be counted", text)
	}
	*s = Size(n * unit)
	return nil
}

// Kind names the type.
func (*Size) Kind() string { return "size" }

// Name is what the operator calls a thing: a node, a group of senders.
type Name string

var nameForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

// Parse reads what stands in a file.
func (n *Name) Parse(text string) error {
	if !nameForm.MatchString(text) {
		return fmt.Errorf("%q is no name: 1 to 63 letters, digits, dots, hyphens and underscores, a letter or digit at both ends", text)
	}
	*n = Name(text)
	return nil
}

// Kind names the type.
func (*Name) Kind() string { return "name" }

// Path is a file or folder. Once loaded it is absolute: one that is not is
// taken from the folder of the file that names it.
type Path string

// Parse reads what stands in a file.
func (p *Path) Parse(text string) error {
	switch {
	case text == "" || strings.TrimSpace(text) != text:
		return fmt.Errorf("%q is no path", text)
	case strings.HasPrefix(text, "~"):
		return fmt.Errorf("%q: ~ is not replaced here; write the whole path", text)
	case strings.Contains(text, "://"):
		return fmt.Errorf("%q is a URL, and a path is wanted", text)
	}
	*p = Path(text)
	return nil
}

// Kind names the type.
func (*Path) Kind() string { return "path" }

// Locate completes a path that is not absolute.
func (p *Path) Locate(dir string) {
	if !filepath.IsAbs(string(*p)) {
		*p = Path(filepath.Join(dir, string(*p)))
	}
}

// Text is any words, such as a user name.
type Text string

// Parse reads what stands in a file.
func (t *Text) Parse(text string) error {
	if text == "" || len(text) > 255 {
		return fmt.Errorf("must have 1 to 255 characters")
	}
	*t = Text(text)
	return nil
}

// Kind names the type.
func (*Text) Kind() string { return "text" }
