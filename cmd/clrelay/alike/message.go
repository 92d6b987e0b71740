package alike

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// field is a field of a header, with its name and its lines as they go out.
type field struct {
	name string // lower case
	text []byte // with CRLF at its end
}

// value is what stands behind the colon.
func (f *field) value() string {
	_, v, _ := bytes.Cut(f.text, []byte(":"))
	return string(v)
}

// letter is a message as a local program gave it. Its lines end in CRLF.
type letter struct {
	head  []field
	body  hold
	eight bool // an octet beyond ASCII is in it
	wide  bool // one is in its header
}

// maxHeader bounds what of a message is read as its header.
const maxHeader = 4 << 20

// readLetter reads a message to its end: that of the input, or a line with a
// dot alone where dot is true. Line ends of any kind become CRLF; a CR within a
// line, which no relay takes, becomes a space.
func readLetter(r io.Reader, dot bool) (*letter, error) {
	in := &lineReader{r: bufio.NewReaderSize(r, 64<<10), dot: dot}
	l := &letter{}
	size, first := 0, true
	for {
		line, err := in.next()
		if errors.Is(err, io.EOF) {
			return l, nil
		}
		if err != nil {
			return nil, err
		}
		if first && (bytes.HasPrefix(line, []byte("From ")) || bytes.HasPrefix(line, []byte(">From "))) {
			continue // of a mailbox file
		}
		first = false
		name, ok := fieldName(line)
		switch {
		case len(line) == 2: // the end of the header
			return l, l.readBody(in, nil)
		case ok:
			l.head = append(l.head, field{name, bytes.Clone(line)})
		case (line[0] == ' ' || line[0] == '\t') && len(l.head) > 0:
			last := &l.head[len(l.head)-1]
			last.text = append(last.text, line...)
		default: // a body without an empty line before it
			return l, l.readBody(in, bytes.Clone(line))
		}
		l.note(line, true)
		if size += len(line); size > maxHeader {
			return nil, fail(exDataErr, "the header has more than %d octets; nothing was queued", maxHeader)
		}
	}
}

func (l *letter) readBody(in *lineReader, line []byte) error {
	for {
		if len(line) > 0 {
			l.note(line, false)
			if err := l.body.write(line); err != nil {
				return err
			}
		}
		var err error
		if line, err = in.next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// note sees what the message needs of SMTP.
func (l *letter) note(line []byte, header bool) {
	for _, c := range line {
		if c >= 0x80 {
			l.eight = true
			l.wide = l.wide || header
			return
		}
	}
}

// drop takes fields out of the header.
func (l *letter) drop(names ...string) {
	kept := l.head[:0]
	for _, f := range l.head {
		if !oneOf(f.name, names) {
			kept = append(kept, f)
		}
	}
	l.head = kept
}

func oneOf(name string, names []string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

func (l *letter) has(name string) bool {
	for _, f := range l.head {
		if f.name == name {
			return true
		}
	}
	return false
}

// add puts a field before the others.
func (l *letter) add(name, value string) {
	text := []byte(name + ": " + value + "\r\n")
	l.note(text, true)
	l.head = append([]field{{strings.ToLower(name), text}}, l.head...)
}

// Size and Open make it the content of a transaction.
func (l *letter) Size() int64 {
	n := l.body.size + 2
	for _, f := range l.head {
		n += int64(len(f.text))
	}
	return n
}

// Open reads it from its beginning.
func (l *letter) Open() (io.ReadCloser, error) {
	var head bytes.Buffer
	for _, f := range l.head {
		head.Write(f.text)
	}
	head.WriteString("\r\n")
	return io.NopCloser(io.MultiReader(&head, l.body.reader())), nil
}

// fieldName tells whether a line begins a field (RFC 5322 2.2, and 4.5.8 for
// the space before the colon).
func fieldName(line []byte) (string, bool) {
	i := bytes.IndexByte(line, ':')
	if i < 0 {
		return "", false
	}
	name := bytes.TrimRight(line[:i], " \t")
	if len(name) == 0 {
		return "", false
	}
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return "", false
		}
	}
	return strings.ToLower(string(name)), true
}

// lineReader reads lines and gives each a CRLF.
type lineReader struct {
	r    *bufio.Reader
	dot  bool
	line []byte
	over bool
}

// next gives a line until the one after it is read.
func (in *lineReader) next() ([]byte, error) {
	if in.over {
		return nil, io.EOF
	}
	in.line = in.line[:0]
	for {
		part, err := in.r.ReadSlice('\n')
		in.line = append(in.line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			in.over = true
			if len(in.line) == 0 {
				return nil, io.EOF
			}
		case err != nil:
			return nil, fail(exIOErr, "reading the message: %w; nothing was queued", err)
		}
		break
	}
	in.line = bytes.TrimSuffix(in.line, []byte("\n"))
	in.line = bytes.TrimSuffix(in.line, []byte("\r"))
	if in.dot && len(in.line) == 1 && in.line[0] == '.' {
		in.over = true
		return nil, io.EOF
	}
	for i, c := range in.line {
		if c == '\r' {
			in.line[i] = ' '
		}
	}
	in.line = append(in.line, '\r', '\n')
	return in.line, nil
}

// hold keeps octets: the first in memory, the rest in a file without a name.
type hold struct {
	mem  []byte
	file *os.File
	size int64
}

const holdInMemory = 1 << 20

func (h *hold) write(p []byte) (err error) {
	h.size += int64(len(p))
	if h.file == nil {
		if len(h.mem)+len(p) <= holdInMemory {
			h.mem = append(h.mem, p...)
			return nil
		}
		if h.file, err = os.CreateTemp("", "clrelay-sendmail-"); err == nil {
			err = os.Remove(h.file.Name())
		}
	}
	if err == nil {
		_, err = h.file.Write(p)
	}
	if err != nil {
		return fail(exTempFail, "keeping the message until it is sent: %w; nothing was queued", err)
	}
	return nil
}

func (h *hold) reader() io.Reader {
	mem := bytes.NewReader(h.mem)
	if h.file == nil {
		return mem
	}
	return io.MultiReader(mem, io.NewSectionReader(h.file, 0, h.size-int64(len(h.mem))))
}

// close gives back what it holds.
func (h *hold) close() error {
	if h.file == nil {
		return nil
	}
	if err := h.file.Close(); err != nil {
		return fmt.Errorf("the message's temporary file: %w", err)
	}
	return nil
}
