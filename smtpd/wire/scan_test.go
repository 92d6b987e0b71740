package wire_test

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"testing"

	"github.com/clrelay/clrelay/smtpd/wire"
)

// slowScan judges octet by octet what a Scanner judges in bulk: the content,
// whether it ended, where it ended, and whether it was bad.
func slowScan(in []byte, dots bool) (content []byte, used int, ended, bad bool) {
	bol, cr := true, false
	for i := 0; i < len(in); i++ {
		c := in[i]
		switch {
		case c == 0, cr && c != '\n', c == '\n' && !cr:
			return content, i, false, true
		case dots && bol && c == '.':
			rest := in[i+1:]
			switch {
			case len(rest) == 0 || len(rest) == 1 && rest[0] == '\r':
				return content, i, false, false // to be continued
			case rest[0] == '\r' && rest[1] == '\n':
				return content, i + 3, true, false
			case rest[0] == '\r':
				return content, i, false, true
			}
			bol = false
			continue // the dot is dropped
		}
		content = append(content, c)
		bol, cr = cr && c == '\n', c == '\r'
	}
	return content, len(in), false, false
}

// bulkScan runs a Scanner over in, cut into pieces as cuts says.
func bulkScan(in []byte, dots bool, cut func(rest int) int) (content []byte, used int, ended, bad bool) {
	sc := wire.NewScanner(dots)
	have := 0 // octets of in that came
	for {
		n, ev := sc.Scan(in[used:have])
		content = append(content, in[used:used+n]...)
		used += n
		switch ev {
		case wire.Dot:
			used++
		case wire.End:
			return content, used + 3, true, false
		case wire.Bad:
			return content, used, false, true
		case wire.More:
			if n > 0 && used < have {
				continue
			}
			if have == len(in) {
				return content, used, false, false
			}
			have += cut(len(in) - have)
		}
	}
}

func compare(t *testing.T, in []byte, dots bool, cut func(int) int) {
	t.Helper()
	wc, wu, we, wb := slowScan(in, dots)
	gc, gu, ge, gb := bulkScan(in, dots, cut)
	if we != ge || wb != gb {
		t.Fatalf("%q dots=%v: ended %v bad %v, want %v %v", in, dots, ge, gb, we, wb)
	}
	if wb { // how far a refused content got does not matter, but no octet may be made up
		if !bytes.HasPrefix(wc, gc) && !bytes.HasPrefix(gc, wc) {
			t.Fatalf("%q: content %q, want %q", in, gc, wc)
		}
		return
	}
	if !bytes.Equal(wc, gc) || wu != gu {
		t.Fatalf("%q dots=%v: content %q to %d, want %q to %d", in, dots, gc, gu, wc, wu)
	}
}

func whole(rest int) int { return rest }
func single(int) int     { return 1 }

// TestScanAllShortInputs goes through every input of up to seven octets over
// the octets that matter.
func TestScanAllShortInputs(t *testing.T) {
	const alphabet = "\r\n.a\x00"
	longest := 7
	if testing.Short() {
		longest = 5
	}
	buf := make([]byte, 0, longest)
	var visit func()
	visit = func() {
		for _, dots := range []bool{true, false} {
			compare(t, buf, dots, whole)
			compare(t, buf, dots, single)
		}
		if len(buf) == longest {
			return
		}
		for _, c := range []byte(alphabet) {
			buf = append(buf, c)
			visit()
			buf = buf[:len(buf)-1]
		}
	}
	visit()
}

func FuzzScan(f *testing.F) {
	f.Add([]byte("a\r\n.\r\nMAIL"), true, uint64(1))
	f.Add([]byte("a\r\n..\r\n\r.\r\n"), true, uint64(2))
	f.Add([]byte("a\n.\r\n"), false, uint64(3))
	f.Fuzz(func(t *testing.T, in []byte, dots bool, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		compare(t, in, dots, func(rest int) int { return 1 + r.IntN(rest) })
	})
}

// bodyOf gives n octets of a content: base64 in lines of 76, as attachments
// are, or text with lines of all lengths.
func bodyOf(n int, text bool) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	raw := make([]byte, 57)
	for b.Len() < n {
		for i := range raw {
			raw[i] = byte(r.Uint32())
		}
		line := base64.StdEncoding.EncodeToString(raw)
		if text {
			line = line[:r.IntN(len(line))]
		}
		b.WriteString(line + "\r\n")
	}
	return b.Bytes()
}

func BenchmarkScan(b *testing.B) {
	for _, bc := range []struct {
		name string
		data []byte
	}{
		{"base64", bodyOf(64<<10, false)},
		{"text", bodyOf(64<<10, true)},
		{"one line", bytes.Repeat([]byte{'x'}, 64<<10)},
		{"empty lines", bytes.Repeat([]byte("\r\n"), 32<<10)},
		{"dots", bytes.Repeat([]byte("..\r\n"), 16<<10)},
	} {
		b.Run(bc.name, func(b *testing.B) {
			b.SetBytes(int64(len(bc.data)))
			for b.Loop() {
				sc := wire.NewScanner(true)
				for pos := 0; pos < len(bc.data); {
					n, ev := sc.Scan(bc.data[pos:])
					if pos += n; ev == wire.Dot {
						pos++
					}
				}
			}
		})
	}
}
