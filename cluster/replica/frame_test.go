package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// frameOf builds a sealed frame.
func frameOf(t testing.TB, h header, its ...Item) []byte {
	t.Helper()
	b := make([]byte, frameHead)
	for i := range its {
		n, err := itemSize(&its[i])
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, make([]byte, n)...)
		putItem(b[len(b)-n:], &its[i])
	}
	h.count = uint32(len(its))
	seal(b, h)
	return b
}

func TestFrameRoundTrip(t *testing.T) {
	its := []Item{
		{},
		numbered(3, 100),
		{Kind: 255, Segment: 1 << 63, Epoch: 2, Seq: ^uint64(0), Arg: 4, Data: [][]byte{{}, {1}, {}, []byte("abc")}},
	}
	want := header{kind: frameItems, from: 1, to: 2, num: 3, acks: 4}
	b := frameOf(t, want, its...)
	h, body, err := unseal(b)
	want.count = 3
	if err != nil || h != want {
		t.Fatalf("%+v, %v", h, err)
	}
	got, _, err := items(nil, nil, body, h.count)
	if err != nil || len(got) != len(its) {
		t.Fatalf("%v, %v", got, err)
	}
	for i, it := range its {
		g := got[i]
		if g.Kind != it.Kind || g.Segment != it.Segment || g.Epoch != it.Epoch || g.Seq != it.Seq || g.Arg != it.Arg || len(g.Data) != len(it.Data) {
			t.Errorf("item %d: %v", i, g)
			continue
		}
		for j := range it.Data {
			if !bytes.Equal(g.Data[j], it.Data[j]) {
				t.Errorf("item %d part %d: %q", i, j, g.Data[j])
			}
		}
	}
	// A part cannot be appended into its neighbour.
	_ = append(got[2].Data[1], 'x')
	if string(got[2].Data[3]) != "abc" {
		t.Error("parts share room")
	}
}

// Every bit of a frame counts.
func TestDamagedFrames(t *testing.T) {
	b := frameOf(t, header{kind: frameItems, from: 1, to: 2, num: 3, acks: 4}, numbered(1, 50), numbered(2, 0))
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, _, err := unseal(b); !errors.Is(err, ErrBadFrame) {
			t.Fatalf("bit %d: %v", i, err)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	for n := range b {
		if _, _, err := unseal(b[:n]); !errors.Is(err, ErrBadFrame) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if _, _, err := unseal(make([]byte, maxWire+1)); !errors.Is(err, ErrBadFrame) {
		t.Errorf("too large: %v", err)
	}
}

func TestMalformedItems(t *testing.T) {
	one := frameOf(t, header{}, numbered(1, 50))[frameHead:]
	set := func(at int, v uint32) []byte {
		b := bytes.Clone(one)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	huge := make([]byte, itemHead+partHead+MaxItem)
	binary.LittleEndian.PutUint32(huge[itemHead-4:], 1)
	binary.LittleEndian.PutUint32(huge[itemHead:], MaxItem)
	tests := []struct {
		name  string
		body  []byte
		count uint32
	}{
		{"more items than bytes", one, 1 << 31},
		{"one item too many", one, 2},
		{"bytes behind", append(bytes.Clone(one), 0), 1},
		{"no item", one, 0},
		{"cut", one[:len(one)-1], 1},
		{"too many parts", set(itemHead-4, MaxParts+1), 1},
		{"more parts than bytes", set(itemHead-4, MaxParts), 1},
		{"part longer than the frame", set(itemHead, 1<<30), 1},
		{"part of 2^32", set(itemHead+8, ^uint32(0)), 1},
		{"too large", huge, 1},
	}
	for _, tt := range tests {
		if _, _, err := items(nil, nil, tt.body, tt.count); !errors.Is(err, ErrBadFrame) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(frameOf(f, header{kind: frameItems, from: 1, to: 2, num: 1}, numbered(1, 50), numbered(2, 0)), true)
	f.Add(frameOf(f, header{kind: frameAck}), true)
	hi := appendHello(nil, hello{low: 1, high: 1, from: node("a", 1), to: node("b", 2)})
	seal(hi, header{kind: frameHello, from: 1, to: 2})
	f.Add(hi, true)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend && len(b) >= frameHead { // past the checksum, which no fuzzer guesses
			count := binary.LittleEndian.Uint32(b[5:])
			seal(b, header{kind: b[4], count: count})
		}
		h, body, err := unseal(b)
		if err != nil {
			return
		}
		if g, err := parseHello(body); err == nil {
			again, err := parseHello(appendHello(nil, g)[frameHead:])
			if err != nil || !reflect.DeepEqual(again, g) {
				t.Fatalf("%+v became %+v, %v", g, again, err)
			}
		}
		its, arena, err := items(nil, nil, body, h.count)
		if len(its)*itemHead+len(arena)*partHead > len(body) {
			t.Fatalf("%d items, %d parts out of %d bytes", len(its), len(arena), len(body))
		}
		if err != nil {
			return
		}
		if again := frameOf(t, header{}, its...); !bytes.Equal(again[frameHead:], body) {
			t.Fatal("another frame came out")
		}
	})
}

func TestHelloRoundTrip(t *testing.T) {
	long := node("n", 1<<40)
	long.Node = strings.Repeat("x", MaxNodeName)
	want := hello{low: 1, high: 7, from: long, to: node("b", 0)}
	b := appendHello(nil, want)[frameHead:]
	got, err := parseHello(append(bytes.Clone(b), "of a later version"...))
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range b {
		if _, err := parseHello(b[:n]); err == nil {
			t.Errorf("%d bytes pass", n)
		}
	}
	if _, err := parseHello(append(b, make([]byte, maxHello)...)); err == nil {
		t.Error("too long passes")
	}
}

func TestMeet(t *testing.T) {
	self := node("b", 20)
	good := hello{low: 1, high: 1, from: node("a", 3), to: Peer{Node: "b", Generation: 1}}
	tests := []struct {
		name   string
		change func(*hello)
		say    string // empty: welcome
	}{
		{"known by name alone", func(*hello) {}, ""},
		{"speaks later versions, too", func(h *hello) { h.high = 9 }, ""},
		{"means an earlier session", func(h *hello) { h.to.Session = 19; h.to.Store[0] = 1 }, ""},
		{"speaks later versions only", func(h *hello) { h.low, h.high = 2, 9 }, "versions 2 to 9"},
		{"speaks nothing", func(h *hello) { h.low, h.high = 0, 0 }, "versions"},
		{"means another node", func(h *hello) { h.to.Node = "c" }, `means node "c"`},
		{"has no session", func(h *hello) { h.from.Session = 0 }, "no session"},
		{"means another generation", func(h *hello) { h.to.Generation = 2 }, "generation"},
	}
	for _, tt := range tests {
		h := good
		tt.change(&h)
		v, err := meet(self, h)
		if tt.say == "" && (err != nil || v != 1) || tt.say != "" && (err == nil || !strings.Contains(err.Error(), tt.say)) {
			t.Errorf("%s: version %d, %v", tt.name, v, err)
		}
	}
}

// Other services of the same gRPC server get the codec they are used to.
func TestCodecLeavesProtobufAlone(t *testing.T) {
	c := newCodec()
	b, err := c.Marshal(wrapperspb.String("hello"))
	if err != nil {
		t.Fatal(err)
	}
	var s wrapperspb.StringValue
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b.Materialize())}, &s); err != nil || !proto.Equal(&s, wrapperspb.String("hello")) {
		t.Errorf("%v, %v", &s, err)
	}
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(make([]byte, maxWire+1))}, &wireFrame{pool: new(bufferPool)}); err == nil {
		t.Error("a frame too large")
	}
}

func TestBufferPool(t *testing.T) {
	var p bufferPool
	for _, n := range []int{0, 1, 2047, 2048, 2049, 1 << 20, 1<<20 + 1, 1 << 22, 1<<22 + 1} {
		b := p.Get(n)
		if len(*b) != n {
			t.Errorf("%d bytes for %d", len(*b), n)
		}
		p.Put(b)
		if b = p.Get(n); len(*b) != n {
			t.Errorf("%d bytes for %d, used before", len(*b), n)
		}
	}
	odd := make([]byte, 3000)
	p.Put(&odd) // of no class: forgotten
}
