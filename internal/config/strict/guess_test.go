package strict_test

import (
	"strings"
	"testing"

	"github.com/clrelay/clrelay/internal/config/strict"
)

func TestGuess(t *testing.T) {
	keys := []string{"max_size", "max_recipients", "max_connections", "timeouts", "mx", "tls", "smarthost"}
	for word, want := range map[string]string{
		"max_siez": "max_size", "maxsize": "max_size", "MAX-SIZE": "max_size", "max_conections": "max_connections",
		"timeout": "timeouts", "smart_hosts": "smarthost", "mxs": "mx", "tsl": "tls",
		"": "", "a": "", "retry": "", "zzzzzzzz": "", strings.Repeat("max_size", 20): "",
	} {
		if got := strict.Guess(word, keys); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestOneOf(t *testing.T) {
	for want, words := range map[string][]string{"": nil, "a": {"a"}, "a or b": {"a", "b"}, "a, b or c": {"a", "b", "c"}} {
		if got := strict.OneOf(words); got != want {
			t.Errorf("%q: %q, want %q", words, got, want)
		}
	}
}

// The caret stands under the column whatever stands before it.
func TestCaret(t *testing.T) {
	for _, c := range []struct {
		source string
		col    int
		want   string
	}{
		{"abc", 2, "f:3:2: wrong\nabc\n ^"},
		{"\tabc", 2, "f:3:2: wrong\n\tabc\n\t^"},
		{"äb", 3, "f:3:3: wrong\näb\n  ^"},
		{"  ", 1, "f:3:1: wrong"},
		{"a\x1b[31m", 2, "f:3:2: wrong\na\uFFFD[31m\n ^"},
		{strings.Repeat("x", 500), 250, "f:3:250: wrong\n" + strings.Repeat("x", 160) + "\n" + strings.Repeat(" ", 80) + "^"},
		{strings.Repeat("x", 500), 500, "f:3:500: wrong\n" + strings.Repeat("x", 160) + "\n" + strings.Repeat(" ", 159) + "^"},
	} {
		e := &strict.Error{File: "f", Line: 3, Col: c.col, Msg: "wrong", Source: c.source}
		if e.Error() != c.want {
			t.Errorf("%q:\n%s\nwant\n%s", c.source, e, c.want)
		}
	}
}
