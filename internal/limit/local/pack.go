package local

import (
	"hash/maphash"
	"net/netip"
	"strings"

	"github.com/clrelay/clrelay/internal/limit"
)

// hash of what per makes of s for the rule with this number.
func hash(s *limit.Subject, seed maphash.Seed, id uint64, per []limit.Field) uint64 {
	const mix = 0x9e3779b97f4a7c15
	h := (id + 1) * mix
	for _, f := range per {
		if f == limit.Client {
			a := limit.Network(s.Client).As16()
			h = (h ^ maphash.Bytes(seed, a[:])) * mix
		} else {
			h = (h ^ maphash.String(seed, s.Value(f))) * mix
		}
		h ^= h >> 29
	}
	return h
}

// pack puts the values of per into a string: 16 octets of a client, and of
// others the text and a NUL.
func pack(s *limit.Subject, per []limit.Field) string {
	var b []byte
	for _, f := range per {
		if f == limit.Client {
			a := limit.Network(s.Client).As16()
			b = append(b, a[:]...)
			continue
		}
		b = append(append(b, s.Value(f)...), 0)
	}
	return string(b)
}

// packed tells whether vals is what pack makes of s.
func packed(s *limit.Subject, per []limit.Field, vals string) bool {
	for _, f := range per {
		if f == limit.Client {
			a := limit.Network(s.Client).As16()
			if len(vals) < 16 || vals[:16] != string(a[:]) {
				return false
			}
			vals = vals[16:]
			continue
		}
		v := s.Value(f)
		if len(vals) <= len(v) || vals[:len(v)] != v || vals[len(v)] != 0 {
			return false
		}
		vals = vals[len(v)+1:]
	}
	return vals == ""
}

// unpack makes the Subject again that pack was given, as far as per goes.
func unpack(per []limit.Field, vals string) limit.Subject {
	var s limit.Subject
	for _, f := range per {
		if f == limit.Client {
			s.Client = netip.AddrFrom16([16]byte([]byte(vals[:16]))).Unmap()
			vals = vals[16:]
			continue
		}
		v, rest, _ := strings.Cut(vals, "\x00")
		s.Set(f, v)
		vals = rest
	}
	return s
}
