package dsn

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"

	"github.com/clrelay/clrelay/internal/mail"
)

// maxHeader bounds the memory that the header of an original takes; the rest
// of a longer one is left out where the header alone goes back.
const maxHeader = 256 << 10

// maxIdleReads is how often in a row a reader may give nothing.
const maxIdleReads = 100

// original is the third part of the report, nil when there is no original.
//
// The whole message goes back where the sender asked for it with RET=FULL, a
// recipient failed (RFC 3461 4.3), it is not too large, and neither REQUIRETLS
// (RFC 8689 5) nor its form forbids it. Otherwise the header alone does, which
// is enough to know the message by and gives spam no second way to travel.
func (w *writer) original() (*part, error) {
	if w.Original == nil {
		return nil, nil
	}
	begin, whole, err := readHeader(w.Original)
	if err != nil {
		return nil, fmt.Errorf("dsn: read the original's header: %w", err)
	}
	header := cleanHeader(begin, whole)
	var words mime.WordDecoder
	w.subject = subjectOf(header, words.DecodeHeader)
	// UTF-8 in a header is right under SMTPUTF8 alone (RFC 6532); elsewhere it
	// is a broken header, which may not stand in message/rfc822.
	ascii := isASCII(header)
	wide := w.Envelope.SMTPUTF8 && !ascii
	if w.returnFull() && whole && (ascii || wide) {
		return w.fullOriginal(io.MultiReader(bytes.NewReader(begin), w.Original), wide), nil
	}
	p := &part{mediaType: "text/rfc822-headers"}
	if wide {
		p.mediaType = "message/global-headers"
	}
	p.encoding, p.content, err = encode(header, w.global)
	return p, err
}

func (w *writer) returnFull() bool {
	env := w.Envelope
	return w.Kind == Failed && env.Ret == mail.ReturnFull && w.Size <= w.MaxFull && env.Body != mail.BodyBinaryMIME && !env.RequireTLS
}

// fullOriginal labels the content 8bit whatever the client declared, for much
// 8-bit mail comes undeclared. A header in UTF-8 may travel without SMTPUTF8
// in base64 (RFC 6532 3.7).
func (w *writer) fullOriginal(content io.Reader, wide bool) *part {
	lines := &lineReader{src: content}
	switch {
	case !wide:
		return &part{mediaType: "message/rfc822", encoding: "8bit", stream: lines}
	case w.global:
		return &part{mediaType: "message/global", encoding: "8bit", stream: lines}
	}
	return &part{mediaType: "message/global", encoding: "base64", stream: &base64Reader{src: lines}}
}

// readHeader reads until the empty line that ends the header, and as little
// beyond as the reader's slices allow. whole is false where the header is
// longer than maxHeader.
func readHeader(r io.Reader) (begin []byte, whole bool, err error) {
	buf := make([]byte, 0, 4<<10)
	for idle := 0; idle < maxIdleReads; idle++ {
		from := max(len(buf)-3, 0)
		if len(buf) == cap(buf) {
			if len(buf) >= maxHeader {
				return buf, false, nil
			}
			buf = append(buf, make([]byte, len(buf))...)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if n > 0 {
			idle = 0
		}
		if bytes.HasPrefix(buf, []byte("\r\n")) || bytes.Contains(buf[from:], []byte("\r\n\r\n")) {
			return buf, true, nil
		}
		if errors.Is(err, io.EOF) {
			return buf, true, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
	return nil, false, io.ErrNoProgress
}

// cleanHeader gives the header fields at the beginning of a message, each line
// ended by CRLF and free of controls. It stops at the first line that is no
// field, so that a body without a header before it does not go back as one.
func cleanHeader(begin []byte, whole bool) []byte {
	out := make([]byte, 0, min(len(begin), 8<<10))
	for line := range bytes.Lines(begin) {
		ended := line[len(line)-1] == '\n'
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) == 0 || !ended && !whole {
			break
		}
		folded := line[0] == ' ' || line[0] == '\t'
		if folded && len(out) == 0 || !folded && !isField(line) {
			break
		}
		for _, c := range line {
			if c < ' ' && c != '\t' || c == 0x7f {
				c = '?'
			}
			out = append(out, c)
		}
		out = append(out, '\r', '\n')
	}
	return out
}

// isField tells whether a line begins with a field name and a colon (RFC 5322
// 3.6.8, with the obsolete white space before the colon).
func isField(line []byte) bool {
	name, _, ok := bytes.Cut(line, []byte(":"))
	name = bytes.TrimRight(name, " \t")
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return ok && len(name) > 0
}

// lineReader hands a message on as the relay's own mail has to be: lines end
// in CRLF, have at most maxLine octets, and hold no NUL. The server refuses
// all but long lines at the door, so that hardly anything is changed here.
type lineReader struct {
	src   io.Reader
	buf   [8 << 10]byte
	out   []byte // made from buf, not handed out yet
	store []byte
	col   int
	cr    bool // the last octet was CR, and is not written yet
	err   error
}

func (l *lineReader) Read(p []byte) (int, error) {
	for len(l.out) == 0 {
		if l.err != nil {
			return 0, l.err
		}
		n, err := l.src.Read(l.buf[:])
		l.store = l.store[:0]
		for _, c := range l.buf[:n] {
			l.put(c)
		}
		if err != nil && l.cr {
			l.cr = false
			l.newline()
		}
		l.err = err
		l.out = l.store
	}
	n := copy(p, l.out)
	l.out = l.out[n:]
	return n, nil
}

func (l *lineReader) put(c byte) {
	if l.cr {
		l.cr = false
		l.newline()
		if c == '\n' {
			return
		}
	}
	switch c {
	case '\r':
		l.cr = true
	case '\n':
		l.newline()
	default:
		if c == 0 {
			c = '?'
		}
		if l.col >= maxLine {
			l.newline()
		}
		l.store = append(l.store, c)
		l.col++
	}
}

func (l *lineReader) newline() {
	l.store = append(l.store, '\r', '\n')
	l.col = 0
}

// base64Reader encodes what it reads in lines of 76 characters.
type base64Reader struct {
	src  io.Reader
	line [78]byte
	out  []byte
	err  error
}

func (b *base64Reader) Read(p []byte) (int, error) {
	if len(b.out) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		var raw [57]byte
		n, err := io.ReadFull(b.src, raw[:])
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		b.err = err
		if n == 0 {
			return 0, err
		}
		base64.StdEncoding.Encode(b.line[:], raw[:n])
		end := base64.StdEncoding.EncodedLen(n)
		b.line[end], b.line[end+1] = '\r', '\n'
		b.out = b.line[:end+2]
	}
	n := copy(p, b.out)
	b.out = b.out[n:]
	return n, nil
}
