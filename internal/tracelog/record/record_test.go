package record

import (
	"strings"
	"testing"
)

func TestNextHopIDs(t *testing.T) {
	for text, want := range map[string]string{
		"Ok: queued as 4Xy7":                              "4Xy7",
		"OK id=1uAbCd-0000xy-2F":                          "1uAbCd-0000xy-2F",
		"6AT9CxyZ012345 Message accepted for delivery":    "6AT9CxyZ012345",
		"<m@x> [InternalId=123456789, Hostname=a] Queued": "InternalId=123456789",
		"OK  1764405 d2e1a72fcca58-7d15e5f3 - gsmtp":      "1764405 d2e1a72fcca58-7d15e5f3",
		"fine":       "",
		"queued as ": "",
		"a1a1a1 b2b2b2 c3c3c3 d4d4d4 e5e5e5 f6f6f6 g7g7g7 h8h8h8 i9i9i9": "a1a1a1 b2b2b2 c3c3c3 d4d4d4 e5e5e5 f6f6f6 g7g7g7 h8h8h8",
	} {
		var got []string
		eachID([]byte(text), func(word []byte) { got = append(got, string(word)) })
		if strings.Join(got, " ") != want {
			t.Errorf("%q has %q, want %q", text, got, want)
		}
	}
}
