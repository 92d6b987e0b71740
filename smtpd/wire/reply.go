package wire

import (
	"strconv"
	"strings"

	"github.com/clrelay/clrelay/internal/mail"
)

// maxReplyLine bounds the text of a reply line (RFC 5321 4.5.3.1.5: 512
// octets with code and CRLF).
const maxReplyLine = 480

// AppendReply writes r as it goes over the wire, the enhanced code on every
// line (RFC 2034 4). Whatever text it holds, the reply stays a reply: foreign
// control octets come out as "?".
func AppendReply(dst []byte, r *mail.Reply) []byte {
	for text, more := r.Text, true; more; {
		var line string
		line, text, more = strings.Cut(text, "\n")
		dst = strconv.AppendInt(dst, int64(r.Code), 10)
		if more {
			dst = append(dst, '-')
		} else {
			dst = append(dst, ' ')
		}
		if e := r.Enhanced; e != (mail.EnhancedCode{}) {
			dst = strconv.AppendInt(dst, int64(e[0]), 10)
			dst = strconv.AppendInt(append(dst, '.'), int64(e[1]), 10)
			dst = strconv.AppendInt(append(dst, '.'), int64(e[2]), 10)
			dst = append(dst, ' ')
		}
		dst = append(appendText(dst, line), '\r', '\n')
	}
	return dst
}

func appendText(dst []byte, s string) []byte {
	s = strings.TrimSuffix(s, "\r")
	if len(s) > maxReplyLine {
		s = s[:maxReplyLine]
	}
	for i := range len(s) {
		c := s[i]
		if c < ' ' && c != '\t' || c == 0x7f {
			c = '?'
		}
		dst = append(dst, c)
	}
	return dst
}
