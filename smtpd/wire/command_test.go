package wire_test

import (
	"strings"
	"testing"

	"github.com/clrelay/clrelay/smtpd/wire"
)

func TestParseChunk(t *testing.T) {
	for arg, want := range map[string]struct {
		size     int64
		last, ok bool
	}{
		"0": {0, false, true}, "0 LAST": {0, true, true}, "10": {10, false, true}, "7  last": {7, true, true},
		"9223372036854775807": {1<<63 - 1, false, true}, "9223372036854775808": {1<<63 - 1, false, false},
		"": {}, "LAST": {}, "+1": {}, "-1": {}, "01": {}, "1 LAS": {}, "1 LAST X": {}, "1\tLAST": {}, "0x1": {}, "1_0": {}, "١": {},
	} {
		size, last, ok := wire.ParseChunk(arg)
		if ok != want.ok || ok && (size != want.size || last != want.last) {
			t.Errorf("%q: %d %t %t", arg, size, last, ok)
		}
	}
}

func TestIsHelo(t *testing.T) {
	for name, want := range map[string]bool{
		"mx1.example.edu": true, "mx_1": true, "[192.0.2.1]": true, "[IPv6:2001:db8::1]": true, "bücher.example": true,
		"": false, "[]": false, "a b": false, "a:b": false, "a(b)": false, "\xff": false, "[bücher]": false, strings.Repeat("a", 256): false,
	} {
		if got := wire.IsHelo(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
}

func TestSplitVerb(t *testing.T) {
	for line, want := range map[string][2]string{
		"": {}, "quit": {"QUIT", ""}, "mail From:<a>  ": {"MAIL", "From:<a>"}, "RCPT \t TO:<b> ": {"RCPT", "TO:<b>"}, " NOOP": {"", "NOOP"},
	} {
		if verb, arg := wire.SplitVerb(line); verb != want[0] || arg != want[1] {
			t.Errorf("%q: %q %q", line, verb, arg)
		}
	}
	if wire.LineLimit("NOOP") != 512 || wire.LineLimit("RCPT") <= 512 || wire.LineLimit("MAIL") <= 512 {
		t.Error("the limits of lines are not those of the RFCs")
	}
}
