package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// maxMeta is how long an encoded Meta may be, in octets: memberlist's limit.
const maxMeta = 512

// The longest parts of a Meta, in octets.
const (
	maxText  = 64  // zone, version
	maxAddr  = 128 // an address
	maxAddrs = 8   // SMTP addresses
)

// metaVersion is the form of what Encode writes. Later forms only add fields
// at the end, so that each version reads the other's.
const metaVersion = 1

// ErrMeta says that a Meta is too long or that octets are none.
var ErrMeta = errors.New("not what a node may say of itself")

// Meta is what a node says of itself.
type Meta struct {
	Store      [16]byte // id of its data_dir
	Session    uint64   // of this process; 0 until it has one
	Generation uint32   // of the cluster it knows
	Level      uint32   // newest feature level that its program knows
	Cluster    string   // host:port of raft, replication and admin
	SMTP       []string // addresses it takes mail at, as many as fit
	Zone       string
	Version    string // of the program
	Ready      bool   // it takes mail
	Draining   bool   // it is being emptied
	Load       Load
}

// Load is how busy a node is.
type Load struct {
	Queued   uint64 // messages that wait in the segments it owns
	Segments uint32 // segments it owns
	Sessions uint32 // SMTP sessions open
	Busy     uint32 // share of the time its processors work, in thousandths
}

// Encode gives at most 512 octets. SMTP addresses that do not fit are left
// out.
func (m Meta) Encode() ([]byte, error) {
	for _, s := range []struct {
		what, text string
		max        int
	}{{"cluster address", m.Cluster, maxAddr}, {"zone", m.Zone, maxText}, {"version", m.Version, maxText}} {
		if len(s.text) > s.max {
			return nil, fmt.Errorf("%s of %d octets, %d are the most: %w", s.what, len(s.text), s.max, ErrMeta)
		}
	}
	var flags byte
	if m.Ready {
		flags |= 1
	}
	if m.Draining {
		flags |= 2
	}
	b := append(make([]byte, 0, maxMeta), metaVersion, flags)
	b = append(b, m.Store[:]...)
	for _, v := range []uint64{m.Session, uint64(m.Generation), uint64(m.Level), m.Load.Queued, uint64(m.Load.Segments), uint64(m.Load.Sessions), uint64(m.Load.Busy)} {
		b = binary.AppendUvarint(b, v)
	}
	for _, s := range []string{m.Cluster, m.Zone, m.Version} {
		b = append(append(b, byte(len(s))), s...)
	}
	at, n := len(b), 0
	b = append(b, 0)
	for _, s := range m.SMTP {
		if len(s) > maxAddr || n == maxAddrs || len(b)+1+len(s) > maxMeta {
			continue
		}
		b = append(append(b, byte(len(s))), s...)
		n++
	}
	b[at] = byte(n)
	return b, nil
}

// decodeMeta reads what Encode of this or a later version wrote.
func decodeMeta(b []byte) (Meta, error) {
	r := reader{b: b}
	if len(b) > maxMeta || r.octet() < metaVersion {
		return Meta{}, ErrMeta
	}
	var m Meta
	flags := r.octet()
	m.Ready, m.Draining = flags&1 != 0, flags&2 != 0
	copy(m.Store[:], r.take(len(m.Store)))
	m.Session, m.Generation, m.Level = r.number(), r.small(), r.small()
	m.Load = Load{Queued: r.number(), Segments: r.small(), Sessions: r.small(), Busy: r.small()}
	m.Cluster, m.Zone, m.Version = r.text(maxAddr), r.text(maxText), r.text(maxText)
	n := int(r.octet())
	r.bad = r.bad || n > maxAddrs
	for range n {
		if r.bad {
			break
		}
		m.SMTP = append(m.SMTP, r.text(maxAddr))
	}
	if r.bad {
		return Meta{}, ErrMeta
	}
	return m, nil
}

// reader takes fields from the front; once something is wrong it gives zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) octet() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) small() uint32 {
	v := r.number()
	r.bad = r.bad || v > 1<<32-1
	return uint32(v)
}

// text reads a string of printable ASCII.
func (r *reader) text(limit int) string {
	n := int(r.octet())
	b := r.take(n)
	for _, c := range b {
		r.bad = r.bad || c < ' ' || c > '~'
	}
	r.bad = r.bad || n > limit
	if r.bad {
		return ""
	}
	return string(b)
}
