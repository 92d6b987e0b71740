package peers

import (
	"strings"
	"testing"
)

// TestMessageOfAnySize: a body that is cut within a line has no bare CR, and
// nothing is too long or too short by it.
func TestMessageOfAnySize(t *testing.T) {
	for size := 256; size < 500; size++ {
		m := (&Source{Size: size}).Message(1)
		if rest := strings.ReplaceAll(string(m), "\r\n", ""); strings.ContainsAny(rest, "\r\n") || !strings.HasSuffix(string(m), "\r\n") || len(m) != size {
			t.Fatalf("size %d: %d octets, %q", size, len(m), m)
		}
	}
}

// TestSourceIntoSink shows that the books of the two agree, whatever the
// size, and that a body that fits the buffer's edge badly is still hashed
// as it was sent.
func TestSourceIntoSink(t *testing.T) {
	for _, size := range []int{0, 2 << 10, 65530, 200 << 10} {
		sink := &Sink{Hash: true}
		if err := sink.Listen("127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		src := &Source{Addr: sink.Addr(), Sessions: 4, Reuse: true, Size: size, Body: RandomBody}
		sent := src.Run(t.Context(), 10, 50)
		if sent.Errors != 0 || len(sent.Accepted) != 50 {
			t.Fatalf("size %d: %d accepted, %d errors, last %v", size, len(sent.Accepted), sent.Errors, sent.LastErr)
		}
		if n, dup := sink.Distinct(); n != 50 || dup != 0 {
			t.Fatalf("size %d: sink has %d distinct and %d duplicates", size, n, dup)
		}
		for _, seq := range sent.Accepted {
			if sum, ok := sink.Sum(seq); !ok || sum != src.Sum(seq) {
				t.Fatalf("size %d: message %d came out different (found: %v)", size, seq, ok)
			}
		}
		sink.Close()
	}
}
