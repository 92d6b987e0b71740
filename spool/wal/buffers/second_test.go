package buffers

import "testing"

// TestSecond: whoever has a buffer gets another at once, from the stock or
// beside it, and what is given back is there again.
func TestSecond(t *testing.T) {
	b := New(1) // one of each size
	for _, want := range []int{1 << 20, 128 << 10, 16 << 10, 16 << 10} {
		buf, _ := b.Second(1 << 20)
		if len(*buf) != want {
			t.Errorf("%d octets, want %d", len(*buf), want)
		}
	}
	b = New(1)
	for _, dirty := range []bool{false, true, false} {
		buf, back := b.Second(200 << 10)
		if len(*buf) != 128<<10 {
			t.Errorf("%d octets", len(*buf))
		}
		back(dirty)
	}
}
