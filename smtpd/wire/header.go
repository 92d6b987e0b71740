package wire

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

const received = "received"

const messageID = "message-id"

// maxMessageID bounds the line of a Message-ID, beyond which it is not known.
const maxMessageID = 1000

// Header counts what stands in the header of a content that streams by, and
// finds its Message-ID. It keeps the first octets of the line it is in, and
// of lines that may hold the Message-ID all that is not at hand.
type Header struct {
	Fields    int
	Hops      int    // Received fields
	Size      int64  // octets
	Done      bool   // the empty line was seen: nothing more is counted
	MessageID string // of the first field of that name, without its brackets

	begin  [len(received) + 8]byte // the beginning of the line
	have   int
	line   []byte // the line so far, where it came in pieces and may hold the Message-ID
	wanted bool   // the field began in the line before, and its value goes on in this one
}

// Feed takes the next octets.
func (h *Header) Feed(p []byte) {
	for len(p) > 0 && !h.Done {
		line, ended := p, false
		if i := bytes.IndexByte(p, '\n'); i >= 0 {
			line, ended = p[:i+1], true
		}
		p = p[len(line):]
		h.Size += int64(len(line))
		fresh := h.have == 0
		h.have += copy(h.begin[h.have:], line)
		if h.MessageID == "" && (h.begin[0]|0x20 == 'm' || h.wanted) {
			h.identify(line, fresh, ended)
		}
		if ended {
			h.endLine()
		}
	}
}

// identify looks at a line, or a piece of one, that may hold the Message-ID.
func (h *Header) identify(line []byte, fresh, ended bool) {
	if fresh {
		h.line = h.line[:0]
	}
	if !fresh || !ended {
		h.line = append(h.line, line[:min(len(line), maxMessageID-len(h.line))]...)
		line = h.line
	}
	if !ended {
		return
	}
	value, wanted := line, h.wanted
	h.wanted = false
	switch {
	case wanted && (line[0] == ' ' || line[0] == '\t'):
	case isField(line, messageID):
		value = line[bytes.IndexByte(line, ':')+1:]
	default:
		return
	}
	if value = bytes.TrimSpace(value); len(value) == 0 {
		h.wanted = !wanted // folded before its value (RFC 5322 2.2.3)
		return
	}
	if open := bytes.IndexByte(value, '<'); open >= 0 {
		value = value[open+1:]
		if end := bytes.IndexByte(value, '>'); end >= 0 {
			value = value[:end]
		}
	}
	if len(value) < 256 && !bytes.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }) {
		h.MessageID = string(value)
	}
}

func (h *Header) endLine() {
	line := h.begin[:h.have]
	h.have = 0
	switch line[0] {
	case '\r', '\n': // the latter only in BINARYMIME
		h.Done = len(line) < 2 || line[0] == '\n' || line[1] == '\n'
	case ' ', '\t': // the field goes on
	default:
		h.Fields++
		if isField(line, received) {
			h.Hops++
		}
	}
}

// isField tells whether the line begins a field of that name. Space before the
// colon is obsolete syntax (RFC 5322 4.5) that loops still come with.
func isField(line []byte, name string) bool {
	if len(line) <= len(name) || !strings.EqualFold(string(line[:len(name)]), name) {
		return false
	}
	rest := bytes.TrimLeft(line[len(name):], " \t")
	return len(rest) > 0 && rest[0] == ':'
}
