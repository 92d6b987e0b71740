package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A frame on the wire, all numbers little-endian:
//
//	crc    4  CRC-32C of all that follows
//	kind   1  frameHello, frameWelcome, frameItems, frameAck
//	count  4  items that follow
//	from   8  session of the sender
//	to     8  session of the receiver; 0 in a hello whose sender does not know it
//	num    8  number of this items frame, 1 the first; in an ack the number of the last one sent; in a hello the attempt
//	ack    8  number of the last items frame taken
//
// and then count items, each
//
//	kind 1, segment 8, epoch 8, seq 8, arg 8, parts 4, length of each part 4 each, the parts.
const (
	frameHead = 41
	itemHead  = 37
	partHead  = 4

	maxWire = frameHead + MaxFrame + MaxItem // the largest frame there is
)

const (
	frameHello   = 1
	frameWelcome = 2
	frameItems   = 3
	frameAck     = 4 // an acknowledgement, or just a sign of life
)

var errShort = errors.New("it ends too early")

type header struct {
	kind      uint8
	count     uint32
	from, to  uint64
	num, acks uint64
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // the library keeps one table for all

// seal writes the head of a frame whose body is complete.
func seal(b []byte, h header) {
	b[4] = h.kind
	le := binary.LittleEndian
	le.PutUint32(b[5:], h.count)
	le.PutUint64(b[9:], h.from)
	le.PutUint64(b[17:], h.to)
	le.PutUint64(b[25:], h.num)
	le.PutUint64(b[33:], h.acks)
	le.PutUint32(b, crc32.Checksum(b[4:], castagnoli()))
}

// unseal checks a frame as a whole and returns its head and body.
func unseal(b []byte) (h header, body []byte, err error) {
	if len(b) < frameHead {
		return h, nil, fmt.Errorf("%w: %w", ErrBadFrame, errShort)
	}
	if len(b) > maxWire {
		return h, nil, fmt.Errorf("%w: %d bytes", ErrBadFrame, len(b))
	}
	le := binary.LittleEndian
	if le.Uint32(b) != crc32.Checksum(b[4:], castagnoli()) {
		return h, nil, fmt.Errorf("%w: checksum does not match", ErrBadFrame)
	}
	h = header{
		kind: b[4], count: le.Uint32(b[5:]), from: le.Uint64(b[9:]), to: le.Uint64(b[17:]),
		num: le.Uint64(b[25:]), acks: le.Uint64(b[33:]),
	}
	return h, b[frameHead:], nil
}

// itemSize returns what an item takes in a frame.
func itemSize(it *Item) (int, error) {
	if len(it.Data) > MaxParts {
		return 0, fmt.Errorf("%w: %d parts", ErrTooLarge, len(it.Data))
	}
	n := itemHead + partHead*len(it.Data)
	for _, p := range it.Data {
		if n += len(p); n > MaxItem {
			return 0, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxItem)
		}
	}
	return n, nil
}

// putItem writes an item of the given size to the front of b.
func putItem(b []byte, it *Item) {
	le := binary.LittleEndian
	b[0] = it.Kind
	le.PutUint64(b[1:], it.Segment)
	le.PutUint64(b[9:], it.Epoch)
	le.PutUint64(b[17:], it.Seq)
	le.PutUint64(b[25:], it.Arg)
	le.PutUint32(b[33:], uint32(len(it.Data)))
	b = b[itemHead:]
	for _, p := range it.Data {
		le.PutUint32(b, uint32(len(p)))
		b = b[partHead:]
	}
	for _, p := range it.Data {
		b = b[copy(b, p):]
	}
}

// items appends the items of a body to dst, with their parts in arena. Both
// share the memory of body. What it allocates is bounded by the body's length:
// no count is believed before the bytes for it are there.
func items(dst []Item, arena [][]byte, body []byte, count uint32) ([]Item, [][]byte, error) {
	if uint64(count)*itemHead > uint64(len(body)) {
		return dst, arena, fmt.Errorf("%w: %d items: %w", ErrBadFrame, count, errShort)
	}
	for range count {
		it, rest, more, err := item(arena, body)
		if err != nil {
			return dst, arena, fmt.Errorf("%w: item %d: %w", ErrBadFrame, len(dst), err)
		}
		dst, arena, body = append(dst, it), more, rest
	}
	if len(body) != 0 {
		return dst, arena, fmt.Errorf("%w: %d bytes behind the last item", ErrBadFrame, len(body))
	}
	return dst, arena, nil
}

// item reads the item at the front of b and returns what is behind it.
func item(arena [][]byte, b []byte) (it Item, rest []byte, _ [][]byte, err error) {
	if len(b) < itemHead {
		return it, nil, arena, errShort
	}
	le := binary.LittleEndian
	it = Item{Kind: b[0], Segment: le.Uint64(b[1:]), Epoch: le.Uint64(b[9:]), Seq: le.Uint64(b[17:]), Arg: le.Uint64(b[25:])}
	parts := int(le.Uint32(b[33:]))
	if parts > MaxParts {
		return it, nil, arena, fmt.Errorf("%d parts", parts)
	}
	size := itemHead + parts*partHead
	if len(b) < size {
		return it, nil, arena, errShort
	}
	lengths, data := b[itemHead:size], b[size:]
	first := len(arena)
	for ; len(lengths) > 0; lengths = lengths[partHead:] {
		n := int(le.Uint32(lengths))
		if size += n; size > MaxItem {
			return it, nil, arena, fmt.Errorf("more than %d bytes", MaxItem)
		}
		if n > len(data) {
			return it, nil, arena, errShort
		}
		arena = append(arena, data[:n:n])
		data = data[n:]
	}
	if parts > 0 {
		it.Data = arena[first:len(arena):len(arena)]
	}
	return it, data, arena, nil
}
