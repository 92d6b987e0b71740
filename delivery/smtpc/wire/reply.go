package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clrelay/clrelay/internal/mail"
)

// Bounds of what a host may say. RFC 5321 4.5.3.1.5 has 512 octets for a
// line; many hosts write longer ones.
const (
	maxReplyLine  = 4096
	maxReplyLines = 128
	maxReplyRaw   = 8192 // octets of text that are looked at: EHLO needs them
	maxReplyText  = 1024 // octets of text that are kept
)

// What a host may not do.
var (
	ErrLine  = errors.New("reply line too long")
	ErrLines = errors.New("reply with too many lines")
	ErrForm  = errors.New("not an SMTP reply")
	ErrMixed = errors.New("reply with more than one code")
)

// Reply is what a host said. It is valid until the next one is read.
type Reply struct {
	Code int    // 200 to 599
	Text []byte // lines parted by "\n", bounded
}

// Positive tells whether the host has done what it was asked to do.
func (r *Reply) Positive() bool { return r.Code/100 == 2 }

// Negative tells whether it has not, now or for good.
func (r *Reply) Negative() bool { return r.Code >= 400 }

// Mail gives the reply in a form that may be kept, shown and logged.
func (r *Reply) Mail() mail.Reply {
	enhanced, text := splitEnhanced(r.Code, r.Text)
	return mail.Reply{Code: r.Code, Enhanced: enhanced, Text: sanitize(text)}
}

// splitEnhanced takes the enhanced code (RFC 2034) off each line. One whose
// class is not that of the reply code is no enhanced code.
func splitEnhanced(code int, text []byte) (mail.EnhancedCode, []byte) {
	end := bytes.IndexAny(text, " \n")
	if end < 0 {
		end = len(text)
	}
	if end < len("2.0.0") || end > len("5.999.999") {
		return mail.EnhancedCode{}, text
	}
	enhanced := mail.ParseEnhancedCode(string(text[:end]))
	if enhanced[0] != code/100 {
		return mail.EnhancedCode{}, text
	}
	if bytes.IndexByte(text, '\n') < 0 {
		return enhanced, bytes.TrimLeft(text[end:], " ")
	}
	prefix := text[:end]
	out := make([]byte, 0, len(text))
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, prefix); ok && (len(rest) == 0 || rest[0] == ' ' || rest[0] == '\n') {
			line = bytes.TrimLeft(rest, " ")
		}
		out = append(out, line...)
	}
	return enhanced, out
}

// sanitize makes foreign text fit for logs and reports: bounded, valid UTF-8,
// nothing in it but printable characters and the "\n" between lines.
func sanitize(text []byte) string {
	cut := len(text) > maxReplyText
	if cut {
		text = text[:maxReplyText]
	}
	plain := !cut
	for _, b := range text {
		if (b < ' ' || b >= 0x7f) && b != '\n' {
			plain = false
			break
		}
	}
	if plain {
		return string(text)
	}
	var s strings.Builder
	s.Grow(len(text) + 3)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n <= 1 && cut && len(text) < utf8.UTFMax:
			// the character that the cut went through
		case r == utf8.RuneError && n <= 1, r != '\n' && !unicode.IsPrint(r):
			s.WriteByte('?')
		default:
			s.Write(text[:n])
		}
		text = text[n:]
	}
	if cut {
		s.WriteString("...")
	}
	return s.String()
}

// replyReader takes replies from a connection.
type replyReader struct {
	src  io.Reader
	buf  []byte
	r, w int // buf[r:w] is read and not used
	rep  Reply
}

// buffered is the number of octets that came and were not asked for yet.
func (r *replyReader) buffered() int { return r.w - r.r }

// read takes one whole reply; it stays valid until the next call.
func (r *replyReader) read() (*Reply, error) {
	r.rep.Text = r.rep.Text[:0]
	for n := 0; n < maxReplyLines; n++ {
		line, err := r.line()
		if err != nil {
			return nil, err
		}
		code, more, text, ok := parseReplyLine(line)
		if !ok {
			return nil, ErrForm
		}
		if n > 0 && code != r.rep.Code {
			return nil, ErrMixed
		}
		r.rep.Code = code
		if n > 0 && len(r.rep.Text) < maxReplyRaw {
			r.rep.Text = append(r.rep.Text, '\n')
		}
		r.rep.Text = append(r.rep.Text, text[:min(len(text), maxReplyRaw-len(r.rep.Text))]...)
		if !more {
			return &r.rep, nil
		}
	}
	return nil, ErrLines
}

// parseReplyLine takes a line of a reply apart (RFC 5321 4.2).
func parseReplyLine(l []byte) (code int, more bool, text []byte, ok bool) {
	if len(l) < 3 || l[0] < '2' || l[0] > '5' || l[1] < '0' || l[1] > '9' || l[2] < '0' || l[2] > '9' {
		return 0, false, nil, false
	}
	code = int(l[0]-'0')*100 + int(l[1]-'0')*10 + int(l[2]-'0')
	if len(l) == 3 {
		return code, false, nil, true
	}
	if l[3] != ' ' && l[3] != '-' {
		return 0, false, nil, false
	}
	return code, l[3] == '-', l[4:], true
}

// line takes one line without its end. A lone LF ends it too: nothing but the
// host's own words can be mistaken by that.
func (r *replyReader) line() ([]byte, error) {
	for scanned, empty := 0, 0; ; {
		if i := bytes.IndexByte(r.buf[r.r+scanned:r.w], '\n'); i >= 0 {
			l := r.buf[r.r : r.r+scanned+i]
			r.r += scanned + i + 1
			return bytes.TrimSuffix(l, []byte("\r")), nil
		}
		scanned = r.w - r.r
		if scanned == len(r.buf) {
			return nil, ErrLine
		}
		if r.r > 0 {
			copy(r.buf, r.buf[r.r:r.w])
			r.r, r.w = 0, scanned
		}
		n, err := r.src.Read(r.buf[r.w:])
		r.w += n
		if n > 0 {
			empty = 0
			continue
		}
		if empty++; err == nil && empty > 100 {
			err = io.ErrNoProgress
		}
		if err != nil {
			return nil, err
		}
	}
}
