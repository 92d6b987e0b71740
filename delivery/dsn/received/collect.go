package received

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"strings"

	"github.com/clrelay/clrelay/delivery/dsn"
)

// Bounds of what is read and kept of a message. What goes beyond them is not
// looked at: it is no error.
const (
	maxRead   = 8 << 20  // octets of the message
	maxHeader = 64 << 10 // octets of one header
	maxFields = 500      // fields of one header
	maxProse  = 64 << 10 // octets of text for people
	maxParts  = 64       // body parts, in all
	maxDepth  = 6        // of multiparts in multiparts
)

// header is fields in their order; names are in lower case, values unfolded.
type header struct{ names, values []string }

func (h *header) get(name string) string {
	for i, n := range h.names {
		if n == name {
			return h.values[i]
		}
	}
	return ""
}

func (h *header) all(name string) []string {
	var out []string
	for i, n := range h.names {
		if n == name {
			out = append(out, h.values[i])
		}
	}
	return out
}

// readHeader reads to the first empty line. Lines that are no fields, such as
// the "From " line of a mailbox file, are passed over.
func readHeader(r *bufio.Reader) header {
	var h header
	var value []byte // of the last field: to put it together once costs less than to copy all of it for each line
	for size := 0; size < maxHeader && len(h.names) < maxFields; {
		line, err := r.ReadSlice('\n')
		size += len(line)
		text := bytes.TrimRight(line, "\r\n")
		if len(text) == 0 {
			break
		}
		if text[0] == ' ' || text[0] == '\t' {
			value = append(append(value, ' '), bytes.TrimSpace(text)...)
		} else if name, begin, ok := bytes.Cut(text, []byte(":")); ok && !bytes.ContainsAny(name, " \t") {
			h.end(value)
			h.names = append(h.names, strings.ToLower(string(name)))
			h.values = append(h.values, "")
			value = append(value[:0], bytes.TrimSpace(begin)...)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
	}
	h.end(value)
	return h
}

// end gives the last field its value.
func (h *header) end(value []byte) {
	if n := len(h.values); n > 0 {
		h.values[n-1] = string(value)
	}
}

// collected is what is kept of a message.
type collected struct {
	header   header
	status   *dsn.Status // nil: none
	feedback *header     // nil: none
	original header      // of the returned message
	text     []byte      // for people, without what was returned
	html     []byte
	parts    int
}

// told gives the text for people.
func (c *collected) told() string {
	text, _ := beforeOriginal(string(c.text))
	return text
}

func collect(r io.Reader) (*collected, error) {
	in := &failing{r: r}
	br := bufio.NewReader(io.LimitReader(in, maxRead))
	c := &collected{header: readHeader(br)}
	raw := &head{}
	c.part(&c.header, io.TeeReader(br, raw), 0)
	switch {
	case c.parts == 0 && len(c.text) == 0:
		c.text = raw.kept // the boundary was not the one that was announced
	case len(c.text) == 0:
		c.text = visibleText(c.html)
	}
	if c.status == nil && c.feedback == nil {
		c.looseStatus()
	}
	return c, in.err
}

// looseStatus finds a delivery status that stands in the text: the type of its
// part was lost, or never was there.
func (c *collected) looseStatus() {
	at := 0
	for line := range strings.Lines(string(c.text)) {
		if begins(strings.ToLower(line), "reporting-mta:", "final-recipient:", "original-recipient:") {
			if s, err := dsn.ParseStatus(strings.NewReader(string(c.text[at:]))); err == nil {
				c.status, c.text = s, c.text[:at]
			}
			return
		}
		at += len(line)
	}
}

// head keeps the beginning of what is written to it.
type head struct{ kept []byte }

func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), maxProse-len(h.kept))]...)
	return len(p), nil
}

// failing remembers the error of a reader, for those in between hide it.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

// part takes a body part, or the message as a whole.
func (c *collected) part(h *header, body io.Reader, depth int) {
	typ, params, err := mime.ParseMediaType(h.get("content-type"))
	if err != nil && typ == "" {
		typ = "text/plain"
	}
	if strings.HasPrefix(typ, "multipart/") && params["boundary"] != "" {
		if depth < maxDepth {
			c.multipart(multipart.NewReader(body, params["boundary"]), depth)
		}
		return
	}
	body = dsn.Decoded(body, h.get("content-transfer-encoding"))
	switch typ {
	case "message/delivery-status", "message/global-delivery-status":
		if c.status == nil {
			// A status that names nobody is none: the text may do.
			c.status, _ = dsn.ParseStatus(body)
		}
	case "message/feedback-report":
		if c.feedback == nil {
			f := readHeader(bufio.NewReader(body))
			c.feedback = &f
		}
	case "message/rfc822", "message/global", "text/rfc822-headers", "message/rfc822-headers", "message/global-headers":
		c.returned(bufio.NewReader(body), depth)
	case "text/html":
		c.html = keep(c.html, body)
	default:
		if strings.HasPrefix(typ, "text/") || typ == "multipart/report" || depth == 0 {
			c.text = keep(c.text, body)
		}
	}
}

// returned takes the message that a report returns. One that is a report itself
// was forwarded: then that is what counts.
func (c *collected) returned(body *bufio.Reader, depth int) {
	h := readHeader(body)
	if strings.HasPrefix(strings.ToLower(h.get("content-type")), "multipart/report") && c.status == nil && c.feedback == nil {
		c.part(&h, body, depth+1)
	} else if len(c.original.names) == 0 {
		c.original = h
	}
}

func (c *collected) multipart(parts *multipart.Reader, depth int) {
	for c.parts < maxParts {
		p, err := parts.NextRawPart()
		if err != nil {
			return // cut short or broken: what was read counts
		}
		c.parts++
		var h header
		for name, values := range p.Header {
			h.names = append(h.names, strings.ToLower(name))
			h.values = append(h.values, values[0])
		}
		c.part(&h, p, depth+1)
	}
}

// keep appends what there is room for. A part that breaks off counts as far as
// it goes.
func keep(dst []byte, body io.Reader) []byte {
	if room := maxProse - len(dst); room > 0 {
		more, _ := io.ReadAll(io.LimitReader(body, int64(room)))
		dst = append(append(dst, more...), '\n')
	}
	return dst
}

// visibleText takes the tags out of HTML.
func visibleText(html []byte) []byte {
	out := make([]byte, 0, len(html))
	inTag := false
	for _, b := range html {
		switch {
		case b == '<':
			inTag = true
			out = append(out, ' ')
		case b == '>':
			inTag = false
		case !inTag:
			out = append(out, b)
		}
	}
	return out
}
