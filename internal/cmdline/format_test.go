package cmdline

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// What is written as YAML must be what was given as JSON, to a reader that is
// not ours.
func FuzzYAML(f *testing.F) {
	for _, s := range []string{
		`{}`, `[]`, `"x"`, `null`, `{"a":[],"b":{},"c":null,"d":true,"e":-1.5}`,
		`[{"a":1,"b":[{"c":2},{"d":[3,[4,5],[]]}]},[],"no"]`, `{"":"","yes":"no","a b":"c: d","#":"- x"}`,
		`["~","null","0x1f","1_000","1e3",".inf","2026-11-23","12:30:00","a\nb","\u2028","\t","é","- a","<<"]`,
		"[\"a\u0085b\", \"\u007f\", \"\ufeff\", \"\u009f\", \"\uffff\", \"\ufffe\"]",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var want any
		if json.Unmarshal([]byte(text), &want) != nil {
			return
		}
		canonical, err := Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := writeYAML(&out, canonical, ""); err != nil {
			t.Fatalf("%s: %v", canonical, err)
		}
		var got any
		if err := yaml.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%s became\n%s: %v", canonical, &out, err)
		}
		if got = likeJSON(got); !reflect.DeepEqual(got, want) {
			t.Fatalf("%s became\n%s which is %#v, not %#v", canonical, &out, got, want)
		}
	})
}

// likeJSON gives what encoding/json would have made of it.
func likeJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = likeJSON(v[k])
		}
		return v
	case []any:
		for i := range v {
			v[i] = likeJSON(v[i])
		}
		return v
	case int:
		return float64(v)
	case int64:
		return float64(v)
	case uint64:
		return float64(v)
	}
	return v
}

func TestHumanForms(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Count(0), "0"}, {Count(999), "999"}, {Count(1204), "1,204"}, {Count(-1234567), "-1,234,567"}, {Count(-123), "-123"}, {Count(math.MaxInt64), "9,223,372,036,854,775,807"},
		{Plural(1, "message"), "1 message"}, {Plural(0, "message"), "0 messages"}, {Plural(1000, "message"), "1,000 messages"},
		{Size(0), "0 B"}, {Size(1023), "1023 B"}, {Size(1024), "1.0 KiB"}, {Size(49356), "48.2 KiB"}, {Size(1 << 20), "1.0 MiB"}, {Size(1000 << 10), "1.0 MiB"}, {Size(5 << 40), "5.0 TiB"}, {Size(5000 << 40), "5000.0 TiB"},
		{Span(-time.Hour), "0s"}, {Span(59 * time.Second), "59s"}, {Span(61 * time.Second), "1m1s"}, {Span(3*time.Hour + 12*time.Minute), "3h12m"}, {Span(49 * time.Hour), "2d1h"},
		{Cell("a\tb\x1b[31m\nc\u202e", 99), "a b\ufffd[31m c\ufffd"}, {Cell("äöüäöü", 5), "äö..."}, {Cell("abc", 3), "abc"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestParseSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "5d": 120 * time.Hour, "2w": 336 * time.Hour, "1w1d2h": 194 * time.Hour, "0s": 0,
	} {
		if got, err := ParseSpan(text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "5", "d", "-1h", "-1d", "1.5d", "5days", "soon", "99999999999w", "1d1w", "1dx"} {
		if got, err := ParseSpan(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "500": 500, "64KiB": 64 << 10, "1 MiB": 1 << 20, "3GiB": 3 << 30} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "KiB", "-1", "1.5MiB", "1MB", "99999999999GiB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}
