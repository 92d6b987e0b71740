package wire

import "bytes"

const received = "received"

// Header counts what stands in the header of a content that streams by. It
// keeps the first octets of the line it is in, and nothing else.
type Header struct {
	Fields int
	Hops   int   // Received fields
	Size   int64 // octets
	Done   bool  // the empty line was seen: nothing more is counted

	begin [len(received) + 8]byte // the beginning of the line
	have  int
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
		h.have += copy(h.begin[h.have:], line)
		if ended {
			h.endLine()
		}
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
		if isReceived(line) {
			h.Hops++
		}
	}
}

// isReceived tells whether the line begins a Received field. Space before the
// colon is obsolete syntax (RFC 5322 4.5) that loops still come with.
func isReceived(line []byte) bool {
	if len(line) <= len(received) || !bytes.EqualFold(line[:len(received)], []byte(received)) {
		return false
	}
	rest := bytes.TrimLeft(line[len(received):], " \t")
	return len(rest) > 0 && rest[0] == ':'
}
