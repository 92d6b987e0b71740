package wire

import "bytes"

// Event says why a scan stopped.
type Event uint8

// What a scan can come to.
const (
	More Event = iota // all is content, or the rest needs more octets to be judged
	Dot               // a dot follows that is not content (RFC 5321 4.5.2)
	End               // ".\r\n" follows, the end of the content
	Bad               // a bare CR, a bare LF or a NUL
)

// Scanner tells content from transport, in bulk: a line costs one search for
// its LF, the rest is counted over the whole buffer. Its state is where the
// octets judged so far ended.
type Scanner struct {
	dots bool // dots at the beginning of a line have a meaning
	bol  bool // at the beginning of a line
	cr   bool // right behind a CR
}

// NewScanner gives the scanner of a content that begins a line and, with dots,
// ends in a line with a dot (DATA).
func NewScanner(dots bool) Scanner { return Scanner{dots: dots, bol: true} }

// Open tells whether the last octet was a CR whose LF is missing.
func (sc *Scanner) Open() bool { return sc.cr }

// Scan judges buf, which follows what was judged before. The first n octets
// are content. With Dot one octet is to be dropped behind them, with End
// three. n is 0 with More when more octets are needed to judge any.
func (sc *Scanner) Scan(buf []byte) (n int, ev Event) {
	if len(buf) == 0 {
		return 0, More
	}
	pos := 0
	if sc.cr {
		if buf[0] != '\n' {
			return 0, Bad
		}
		sc.cr, sc.bol, pos = false, true, 1
	}
	start, pairs, end := pos, 0, len(buf)
	for {
		if sc.bol && sc.dots && pos < len(buf) && buf[pos] == '.' {
			ev, end = judgeDot(buf[pos:]), pos
			break
		}
		lf := bytes.IndexByte(buf[pos:], '\n')
		if lf < 0 {
			sc.bol = sc.bol && pos == len(buf)
			break
		}
		if lf == 0 || buf[pos+lf-1] != '\r' {
			return 0, Bad
		}
		pos += lf + 1
		pairs++
		sc.bol = true
	}
	if region := buf[start:end]; len(region) > 0 {
		// Every LF has its CR. When there is no other CR, but perhaps a last
		// one whose LF is still to come, every CR has its LF too.
		sc.cr = region[len(region)-1] == '\r'
		if sc.cr {
			pairs++
		}
		if bytes.Count(region, []byte{'\r'}) != pairs || bytes.IndexByte(region, 0) >= 0 {
			return 0, Bad
		}
	}
	if ev == Bad {
		return 0, Bad
	}
	if ev == Dot {
		sc.bol = false
	}
	return end, ev
}

// judgeDot judges a line that begins with a dot.
func judgeDot(line []byte) Event {
	switch {
	case len(line) == 1:
		return More
	case line[1] == '\n':
		return Bad
	case line[1] != '\r':
		return Dot
	case len(line) == 2:
		return More
	case line[2] != '\n':
		return Bad
	}
	return End
}
