package sim

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"reflect"
	"unsafe"
)

// deepCopy copies a value with all it points to: the checker goes on from one
// state in several ways. Functions, channels and interfaces' contents of
// unknown kind are shared.
func deepCopy[T any](v T) T {
	c := copier{seen: map[unsafe.Pointer]reflect.Value{}}
	in := reflect.ValueOf(&v).Elem()
	var out T
	c.copyTo(reflect.ValueOf(&out).Elem(), in)
	return out
}

type copier struct {
	seen map[unsafe.Pointer]reflect.Value
}

// open makes an unexported field readable and writable.
func open(v reflect.Value) reflect.Value {
	if v.CanSet() || !v.CanAddr() {
		return v
	}
	return reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem()
}

func (c *copier) copyTo(dst, src reflect.Value) {
	switch src.Kind() {
	case reflect.Pointer:
		if src.IsNil() {
			return
		}
		p := src.UnsafePointer()
		if old, ok := c.seen[p]; ok && old.Type() == src.Type() {
			dst.Set(old)
			return
		}
		n := reflect.New(src.Type().Elem())
		c.seen[p] = n
		c.copyTo(n.Elem(), src.Elem())
		dst.Set(n)
	case reflect.Slice:
		if src.IsNil() {
			return
		}
		n := reflect.MakeSlice(src.Type(), src.Len(), src.Len())
		if flat(src.Type().Elem()) {
			reflect.Copy(n, src)
		} else {
			for i := range src.Len() {
				c.copyTo(open(n.Index(i)), open(src.Index(i)))
			}
		}
		dst.Set(n)
	case reflect.Map:
		if src.IsNil() {
			return
		}
		n := reflect.MakeMapWithSize(src.Type(), src.Len())
		for it := src.MapRange(); it.Next(); {
			k, v := reflect.New(src.Type().Key()).Elem(), reflect.New(src.Type().Elem()).Elem()
			c.copyTo(k, addressable(it.Key()))
			c.copyTo(v, addressable(it.Value()))
			n.SetMapIndex(k, v)
		}
		dst.Set(n)
	case reflect.Struct:
		for i := range src.NumField() {
			c.copyTo(open(dst.Field(i)), open(src.Field(i)))
		}
	case reflect.Array:
		if flat(src.Type().Elem()) {
			dst.Set(src)
			return
		}
		for i := range src.Len() {
			c.copyTo(open(dst.Index(i)), open(src.Index(i)))
		}
	case reflect.Interface:
		if src.IsNil() {
			return
		}
		n := reflect.New(src.Elem().Type()).Elem()
		c.copyTo(n, addressable(src.Elem()))
		dst.Set(n)
	default:
		dst.Set(src)
	}
}

// addressable is a shallow copy of v whose fields can be reached.
func addressable(v reflect.Value) reflect.Value {
	n := reflect.New(v.Type()).Elem()
	n.Set(v)
	return n
}

func flat(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.String:
		return true
	}
	return false
}

// deepHash is a fingerprint of a value with all it points to. Maps hash alike
// whatever their order. A nil slice or map equals an empty one.
func deepHash(seed maphash.Seed, v any) uint64 {
	h := hasher{seed: seed}
	h.buf = h.buf[:0]
	h.add(addressable(reflect.ValueOf(v)))
	return maphash.Bytes(seed, h.buf)
}

type hasher struct {
	seed maphash.Seed
	buf  []byte
}

func (h *hasher) num(x uint64) { h.buf = binary.AppendUvarint(h.buf, x) }

func (h *hasher) add(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		h.num(uint64(b2i(v.Bool())))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		h.num(uint64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		h.num(v.Uint())
	case reflect.Float32, reflect.Float64:
		h.num(math.Float64bits(v.Float()))
	case reflect.String:
		h.num(uint64(v.Len()))
		h.buf = append(h.buf, v.String()...)
	case reflect.Pointer, reflect.Interface:
		h.num(uint64(b2i(v.IsNil())))
		if !v.IsNil() {
			if v.Kind() == reflect.Interface {
				h.buf = append(h.buf, v.Elem().Type().String()...)
			}
			h.add(v.Elem())
		}
	case reflect.Slice, reflect.Array:
		h.num(uint64(v.Len()))
		for i := range v.Len() {
			h.add(v.Index(i))
		}
	case reflect.Map:
		var sum uint64
		for it := v.MapRange(); it.Next(); {
			e := hasher{seed: h.seed}
			e.add(it.Key())
			e.add(it.Value())
			sum += maphash.Bytes(h.seed, e.buf)
		}
		h.num(uint64(v.Len()))
		h.num(sum)
	case reflect.Struct:
		for i := range v.NumField() {
			h.add(v.Field(i))
		}
	}
}
