package abuse

import (
	"errors"
	"net/netip"
)

// Deltas travel in messages of a version octet and, for each client, an octet
// that is 4 or 6, its address (4 octets) or network (8), and a count of each kind.

const (
	version = 1
	// MaxMessage bounds a message, in octets, so that it fits into one packet.
	MaxMessage = 1000
	entry6     = 1 + 8 + int(Kinds)
	// Batch is how many Deltas fit into a message in any case.
	Batch = (MaxMessage - 1) / entry6
)

// ErrMessage is for what is no message of Deltas.
var ErrMessage = errors.New("abuse: no message about clients")

// Encode makes a message of at most Batch Deltas. A count of more than 255 is told
// as 255.
func Encode(list []Delta) []byte {
	b := []byte{version}
	for i := range list {
		d := &list[i]
		if a := d.Client.As16(); d.Client.Is4() {
			b = append(append(b, 4), a[12:]...)
		} else {
			b = append(append(b, 6), a[:8]...)
		}
		for _, n := range d.Counts {
			b = append(b, byte(min(n, 255)))
		}
	}
	return b
}

// Decode reads what Encode makes.
func Decode(b []byte) ([]Delta, error) {
	if len(b) == 0 || b[0] != version || len(b) > MaxMessage {
		return nil, ErrMessage
	}
	var out []Delta
	for b = b[1:]; len(b) > 0; {
		size := map[byte]int{4: 4, 6: 8}[b[0]]
		if size == 0 || len(b) < 1+size+int(Kinds) {
			return nil, ErrMessage
		}
		var d Delta
		if size == 4 {
			d.Client = netip.AddrFrom4([4]byte(b[1:5]))
		} else {
			var a [16]byte
			copy(a[:], b[1:9])
			d.Client = netip.AddrFrom16(a)
		}
		for k := range d.Counts {
			d.Counts[k] = uint16(b[1+size+k])
		}
		out = append(out, d)
		b = b[1+size+int(Kinds):]
	}
	return out, nil
}
