package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/clrelay/clrelay/cluster/gossip/lexer"
)

func TestMetaRoundTrip(t *testing.T) {
	for _, m := range []Meta{
		{},
		{
			Store: [16]byte{1, 15: 16}, Session: 1<<39 - 1, Generation: 1<<32 - 1, Level: 7, Cluster: "mx1.example.edu:7525",
			SMTP: []string{"10.0.0.1:25", "[2001:db8::1]:587"}, Zone: "a", Version: "v1.2.3", Ready: true, Draining: true,
			Load: Load{Queued: 1<<64 - 1, Segments: 1, Sessions: 1<<32 - 1, Busy: 1000},
		},
	} {
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeMeta(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v became %+v, %v", m, got, err)
		}
		// A later version says more at the end.
		b[0] = metaVersion + 1
		if got, err := decodeMeta(append(b, "more"...)); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v of a later version became %+v, %v", m, got, err)
		}
	}
	// The longest fits, without the SMTP addresses that do not.
	m := Meta{
		Session: 1<<64 - 1, Cluster: strings.Repeat("c", maxAddr), Zone: strings.Repeat("z", maxText), Version: strings.Repeat("v", maxText),
		Generation: 1<<32 - 1, Level: 1<<32 - 1, Load: Load{1<<64 - 1, 1<<32 - 1, 1<<32 - 1, 1<<32 - 1},
	}
	for range 20 {
		m.SMTP = append(m.SMTP, strings.Repeat("s", maxAddr-1))
	}
	b, err := m.Encode()
	if err != nil || len(b) > maxMeta {
		t.Fatalf("%d octets, %v", len(b), err)
	}
	if got, err := decodeMeta(b); err != nil || len(got.SMTP) == 0 || got.Zone != m.Zone {
		t.Errorf("became %+v, %v", got, err)
	}
	m.Cluster += "c"
	if _, err := m.Encode(); !errors.Is(err, ErrMeta) {
		t.Errorf("a long address: %v", err)
	}
}

func FuzzMeta(f *testing.F) {
	b, err := Meta{Cluster: "10.0.0.1:7525", SMTP: []string{"10.0.0.1:25"}, Zone: "a", Version: "v1"}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:20])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			if !errors.Is(err, ErrMeta) {
				t.Errorf("error %v", err)
			}
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatalf("%+v cannot be encoded: %v", m, err)
		}
		if got, err := decodeMeta(again); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v became %+v, %v", m, got, err)
		}
	})
}

// FuzzFrames reads what a peer may send on a kept connection.
func FuzzFrames(f *testing.F) {
	f.Add(append(hello("mx1", netip.MustParseAddrPort("[2001:db8::1]:7526")), frame(nil, []byte{0, 1})...))
	f.Add(append(hello("mx1", netip.AddrPort{}), 0xff, 0xff))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		name, _, err := readHello(r)
		if err == nil && (name == "" || len(name) > 63) {
			t.Errorf("name %q", name)
		}
		for {
			p, err := readFrame(r)
			if err != nil {
				return
			}
			if len(p) > maxPacket {
				t.Errorf("a frame of %d octets", len(p))
			}
			if plain(p) && (p[0] == 9 || p[0] == 10 || p[0] == 244) {
				t.Errorf("took a packet of kind %d", p[0])
			}
		}
	})
}

func TestPlain(t *testing.T) {
	compound := func(parts ...string) []byte {
		b := []byte{kindCompound, byte(len(parts))}
		for _, p := range parts {
			b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
		}
		return append(b, strings.Join(parts, "")...)
	}
	crc := func(b []byte) []byte { return append([]byte{kindCRC, 1, 2, 3, 4}, b...) }
	for _, c := range []struct {
		b    []byte
		want bool
	}{
		{nil, false},
		{[]byte{0, 1}, true},
		{[]byte("\x00\x81\xa1X\xc9\xff\xff\xff\xff0"), false},
		{[]byte{5}, true},
		{[]byte{8}, true},
		{[]byte{11}, true},
		{[]byte{6}, false},
		{[]byte{9, 1, 2}, false},
		{[]byte{10}, false},
		{[]byte{244, 1, 'x'}, false},
		{crc([]byte{0, 1}), true},
		{crc([]byte{9, 1}), false},
		{crc(crc([]byte{0, 1})), false},
		{crc(nil), false},
		{compound("\x00x", "\x04y"), true},
		{crc(compound("\x00x", "\x04y")), true},
		{compound(), true},
		{compound("\x00x", "\x09y"), false},
		{compound("\x00x", ""), false},
		{compound(string(compound("\x00x"))), false},
		{[]byte{kindCompound}, false},
		{[]byte{kindCompound, 2, 0, 1, 0}, false},
		{[]byte{kindCompound, 1, 0, 9, 0}, false},
	} {
		if got := plain(c.b); got != c.want {
			t.Errorf("%x: %v", c.b, got)
		}
	}
}

// What our own nodes send passes, in one piece or octet by octet; what makes
// the decoder take memory does not.
func TestLexer(t *testing.T) {
	for _, c := range []struct {
		what, b string
		counts  int
		want    bool
	}{
		{what: "nothing", want: true},
		{what: "a ping", b: "\x82\xa5SeqNo\xce\xff\xff\xff\xff\xa4Node\xa3mx1", want: true},
		{what: "an exchange", b: "\x83\xa5Nodes\x01\xacUserStateLen\x00\xa4Join\xc3\x81\xabIncarnation\xce\xff\xff\xff\xff", counts: lexer.ExchangeHead, want: true},
		{what: "a million nodes", b: "\x83\xa5Nodes\xce\x00\x10\x00\x00", counts: lexer.ExchangeHead},
		{what: "a negative number of nodes", b: "\x83\xa5Nodes\xd1\xff\x00", counts: lexer.ExchangeHead},
		{what: "an extension", b: "\x81\xa1X\xc9\xff\xff\xff\xff0"},
		{what: "a fixed extension", b: "\x81\xa1X\xd4\x00\x00"},
		{what: "no token", b: "\xc1"},
		{what: "a long string", b: "\xdb\x00\x01\x00\x00"},
		{what: "long octets", b: "\xc6\x00\x01\x00\x00"},
		{what: "a great map", b: "\xdf\x00\x01\x00\x00"},
		{what: "a great list", b: "\xdd\x00\x01\x00\x00"},
		{what: "lists and maps with lengths", b: "\xdc\x00\x01\xde\x00\x01\xdd\x00\x00\x00\x01\xdf\x00\x00\x00\x01\xc0\xc2", want: true},
		{what: "all numbers", b: "\x7f\xe0\xcc1\xcd12\xce1234\xcf12345678\xd01\xd112\xd21234\xd312345678\xca1234\xcb12345678\xc0", want: true},
		{what: "what looks like an extension in a string", b: "\xd9\x01\xc9\xda\x00\x01\xc9\xc4\x01\xc9\xa1\xc9\xc0", want: true},
	} {
		whole, slow := lexer.Lexer{Counts: c.counts}, lexer.Lexer{Counts: c.counts}
		err := whole.Take([]byte(c.b))
		if (err == nil) != c.want {
			t.Errorf("%s: %v", c.what, err)
		}
		var again error
		for i := 0; i < len(c.b) && again == nil; i++ {
			again = slow.Take([]byte{c.b[i]})
		}
		if (again == nil) != c.want || c.want && whole != slow {
			t.Errorf("%s, octet by octet: %v, %+v and %+v", c.what, again, whole, slow)
		}
	}
}

// deaf is a transport with nobody behind it.
type deaf struct {
	packets chan *memberlist.Packet
	streams chan net.Conn
}

func (deaf) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IPv4(10, 0, 0, 1), 7526, nil
}
func (deaf) WriteTo([]byte, string) (time.Time, error)                    { return time.Now(), nil }
func (deaf) WriteToAddress([]byte, memberlist.Address) (time.Time, error) { return time.Now(), nil }
func (d deaf) PacketCh() <-chan *memberlist.Packet                        { return d.packets }
func (d deaf) StreamCh() <-chan net.Conn                                  { return d.streams }
func (deaf) DialTimeout(string, time.Duration) (net.Conn, error)          { return nil, errClosed }
func (deaf) DialAddressTimeout(memberlist.Address, time.Duration) (net.Conn, error) {
	return nil, errClosed
}
func (deaf) Shutdown() error { return nil }

// FuzzMemberlist gives memberlist what our transport lets through: whatever
// a node of the cluster says, nobody falls over it.
func FuzzMemberlist(f *testing.F) {
	f.Add(false, []byte("\x00\x82\xa5SeqNo\x01\xa4Node\xa3mx1"))
	f.Add(false, []byte("\x01\x84\xa5SeqNo\x01\xa4Node\xa3mx1\xa6Target\xa3abc\xa4Port\x01"))
	f.Add(false, []byte("\x03\x83\xabIncarnation\x01\xa4Node\xa3mx1\xa4From\xa3mx2"))
	f.Add(false, []byte("\x04\x85\xabIncarnation\x01\xa4Node\xa3mx2\xa4Addr\xa4\x0a\x00\x00\x02\xa4Port\x01\xa3Vsn\xa6\x01\x05\x02\x00\x00\x00"))
	f.Add(false, []byte("\x05\x83\xabIncarnation\x01\xa4Node\xa3mx1\xa4From\xa3mx2"))
	f.Add(true, []byte("\x06\x83\xa5Nodes\x01\xacUserStateLen\x00\xa4Join\xc3\x81\xa4Name\xa3mx2"))
	f.Add(true, []byte("\x00\x82\xa5SeqNo\x01\xa4Node\xa3mx1"))
	g := &Gossip{opts: Options{Node: "mx1"}, table: newTable("mx1", quiet())}
	var err error
	if g.meta, err = (Meta{}).Encode(); err != nil {
		f.Fatal(err)
	}
	g.opts.Log = quiet()
	g.wire = &transport{}
	wire := deaf{make(chan *memberlist.Packet), make(chan net.Conn)}
	c := g.config()
	c.Transport = wire
	list, err := memberlist.Create(c)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = list.Shutdown() }) // deaf's never fails
	from := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 1}
	f.Fuzz(func(t *testing.T, isStream bool, b []byte) {
		if !isStream {
			if plain(b) && len(b) <= maxPacket {
				wire.packets <- &memberlist.Packet{Buf: b, From: from, Timestamp: time.Now()}
			}
			return
		}
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		wire.streams <- &stream{Conn: theirs, left: maxStream, kinds: streamOpens, done: func() { close(done) }}
		if err := ours.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, _ = ours.Write(b) // it may be closed to us at any octet
		_ = ours.Close()
		<-done
	})
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
