package record

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clrelay/clrelay/internal/mail"
)

// field is one field of an encoded message: val of a number, data of a
// length-delimited one, both pointing into what is parsed.
type field struct {
	num  protowire.Number
	typ  protowire.Type
	val  uint64
	data []byte
}

// fields calls visit for each field of an encoded message.
func fields(data []byte, visit func(field) error) error {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrPayload, protowire.ParseError(n))
		}
		data = data[n:]
		f := field{num: num, typ: typ}
		switch typ {
		case protowire.VarintType:
			f.val, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			f.data, n = protowire.ConsumeBytes(data)
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(data)
			f.val = uint64(v)
		default:
			n = protowire.ConsumeFieldValue(num, typ, data)
		}
		if n < 0 {
			return fmt.Errorf("%w: field %d: %w", ErrPayload, num, protowire.ParseError(n))
		}
		data = data[n:]
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}

// id copies the field into an ID.
func (f field) id(id *mail.ID) error {
	if len(f.data) != len(id) {
		return fmt.Errorf("%w: message ID of %d octets", ErrPayload, len(f.data))
	}
	copy(id[:], f.data)
	return nil
}

// uint32s appends a repeated number, packed or not.
func (f field) uint32s(dst []uint32) ([]uint32, error) {
	if f.typ == protowire.VarintType {
		return append(dst, uint32(f.val)), nil
	}
	for data := f.data; len(data) > 0; {
		v, n := protowire.ConsumeVarint(data)
		if n < 0 {
			return dst, fmt.Errorf("%w: field %d: %w", ErrPayload, f.num, protowire.ParseError(n))
		}
		dst, data = append(dst, uint32(v)), data[n:]
	}
	return dst, nil
}

func appendUint(dst []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.VarintType), v)
}

func appendBool(dst []byte, num protowire.Number, v bool) []byte {
	if !v {
		return dst
	}
	return appendUint(dst, num, 1)
}

func appendString(dst []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, num, protowire.BytesType), s)
}

// appendBytes writes the field even when it is empty: an empty message in a
// repeated field counts.
func appendBytes(dst []byte, num protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, num, protowire.BytesType), b)
}

func appendPacked(dst []byte, num protowire.Number, vs []uint32) []byte {
	if len(vs) == 0 {
		return dst
	}
	size := 0
	for _, v := range vs {
		size += protowire.SizeVarint(uint64(v))
	}
	dst = protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.BytesType), uint64(size))
	for _, v := range vs {
		dst = protowire.AppendVarint(dst, uint64(v))
	}
	return dst
}
