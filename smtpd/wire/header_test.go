package wire

import (
	"strings"
	"testing"
)

// The Message-ID is found however the header comes in pieces.
func TestMessageID(t *testing.T) {
	long := strings.Repeat("x", 300)
	for header, want := range map[string]string{
		"Message-ID: <a.b@example.edu>\r\n":                         "a.b@example.edu",
		"MIME-Version: 1.0\r\nmessage-id :<x@y>\r\n":                "x@y",
		"Subject: x\r\nMESSAGE-ID:\r\n <folded@example.edu>\r\n":    "folded@example.edu",
		"Message-ID:\r\nSubject: <no@id>\r\n":                       "",
		"Message-ID:\r\n \r\n <too@late>\r\n":                       "",
		"Message-ID: no brackets\r\n":                               "no brackets",
		"Message-ID: (comment) <c@d> more\r\n":                      "c@d",
		"Message-ID: <first@x>\r\nMessage-ID: <second@x>\r\n":       "first@x",
		"Message-IDs: <a@b>\r\nX-Message-ID: <c@d>\r\nM: <e@f>\r\n": "",
		"Message-ID: <" + long + "@x>\r\n":                          "",
		"Message-ID: <a\x01b@x>\r\n":                                "",
		"Message-ID: <a\xffb@x>\r\n":                                "",
		"\r\nMessage-ID: <in@body>\r\n":                             "",
	} {
		text := header + "To: a@b\r\n\r\nMessage-ID: <body@x>\r\n"
		for size := 1; size <= len(text); size++ {
			var h Header
			for rest := text; rest != ""; {
				n := min(size, len(rest))
				h.Feed([]byte(rest[:n]))
				rest = rest[n:]
			}
			if h.MessageID != want || !h.Done {
				t.Fatalf("%q in pieces of %d: Message-ID %q, want %q; done %v", header, size, h.MessageID, want, h.Done)
			}
		}
	}
}

// A usual header costs one allocation, that of the Message-ID.
func TestMessageIDAllocates(t *testing.T) {
	text := []byte("MIME-Version: 1.0\r\nSubject: x\r\nMessage-ID: <a.b@example.edu>\r\n\r\n")
	if n := testing.AllocsPerRun(100, func() {
		var h Header
		h.Feed(text)
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
}
