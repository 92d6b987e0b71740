// Package mask hides mail addresses in what the admin API answers: of
// jane@example.org it leaves j***@example.org. It looks at every text of a
// message, whatever its meaning, for addresses stand in replies of other
// servers, in notes and in configurations as well; it would rather hide too much.
package mask

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Message gives a copy of a message in which every text is masked.
func Message(m proto.Message) proto.Message {
	out := proto.Clone(m)
	message(out.ProtoReflect())
	return out
}

func message(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			fields(m, f, v.Map())
		case f.IsList():
			list := v.List()
			for i := range list.Len() {
				if w, ok := value(f, list.Get(i)); ok {
					list.Set(i, w)
				}
			}
		default:
			if w, ok := value(f, v); ok {
				m.Set(f, w)
			}
		}
		return true
	})
	if len(m.GetUnknown()) > 0 {
		m.SetUnknown(nil) // what cannot be read cannot be masked
	}
}

// fields masks a map, its keys too.
func fields(m protoreflect.Message, f protoreflect.FieldDescriptor, was protoreflect.Map) {
	is := m.NewField(f).Map()
	was.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		if w, ok := value(f.MapKey(), k.Value()); ok {
			k = w.MapKey()
		}
		if w, ok := value(f.MapValue(), v); ok {
			v = w
		}
		is.Set(k, v)
		return true
	})
	m.Set(f, protoreflect.ValueOfMap(is))
}

// value masks one value; ok says that it is to be replaced.
func value(f protoreflect.FieldDescriptor, v protoreflect.Value) (protoreflect.Value, bool) {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(Text(v.String())), true
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(Text(string(v.Bytes())))), true
	case protoreflect.MessageKind, protoreflect.GroupKind:
		message(v.Message())
	}
	return v, false
}

// signs are what may stand for the @ of an address: itself, its full width
// form, and how xtext, URLs and quoted-printable write it.
var signs = [][]byte{[]byte("@"), []byte("\uFF20"), []byte("\uFE6B"), []byte("+40"), []byte("%40"), []byte("=40")}

// Text masks all addresses in a text.
func Text(text string) string {
	if !strings.ContainsAny(text, "@\uFF20\uFE6B") && !strings.Contains(text, "40") {
		return text
	}
	in := []byte(text)
	var out []byte
	done := 0 // how much of in was looked at and is in out
	for at := 0; at < len(in); at++ {
		sign := signAt(in[at:])
		if sign == 0 || !domain(in[at+sign:], sign > 1 || in[at] != '@') {
			continue
		}
		from := local(in[done:at]) + done
		out = append(out, in[done:from]...)
		if from < at {
			out = append(out, first(in[from:at])...)
			out = append(out, "***"...)
		}
		out = append(out, in[at:at+sign]...)
		done = at + sign
		at = done - 1
	}
	return string(append(out, in[done:]...))
}

func signAt(b []byte) int {
	for _, s := range signs {
		if bytes.HasPrefix(b, s) {
			return len(s)
		}
	}
	return 0
}

// domain says whether a domain or an address literal begins here. After a sign
// that is not the @ itself it must have a dot.
func domain(b []byte, dotted bool) bool {
	n := 0
	for n < len(b) && (b[n] == '-' || b[n] == '.' || b[n] == '_' || b[n] >= '0' && b[n] <= '9' || b[n]|0x20 >= 'a' && b[n]|0x20 <= 'z' || b[n] >= utf8.RuneSelf) {
		n++
	}
	switch {
	case n == 0:
		return len(b) > 0 && (b[0] == '[' || b[0] == '\\' || b[0] == '"')
	case dotted:
		return bytes.IndexByte(b[:n], '.') > 0 || bytes.ContainsFunc(b[:n], func(r rune) bool { return r >= utf8.RuneSelf })
	}
	return true
}

// local tells where the local part begins that ends with b.
func local(b []byte) int {
	if n := len(b); n > 0 && b[n-1] == '"' {
		return quoted(b)
	}
	at := len(b)
	for at > 0 {
		r, size := utf8.DecodeLastRune(b[:at])
		if r <= ' ' || r == 0x7f || unicode.IsSpace(r) || strings.ContainsRune("<>()[]{},;:\"@", r) {
			break
		}
		at -= size
	}
	return at
}

// quoted finds the beginning of a quoted string that ends with b. Its quotes
// may themselves stand behind a backslash, as in JSON. Where there is no
// beginning all of the line is hidden.
func quoted(b []byte) int {
	end := len(b) - 1
	depth := slashes(b[:end])
	for at := end - 1; at >= 0; at-- {
		switch {
		case b[at] == '"' && slashes(b[:at]) == depth:
			return at - depth
		case b[at] == '\n':
			return at + 1
		}
	}
	return 0
}

// slashes counts the backslashes that b ends with, as they count: two are one.
func slashes(b []byte) int {
	n := 0
	for n < len(b) && b[len(b)-1-n] == '\\' {
		n++
	}
	return n
}

// first is the first letter of a local part, behind its quote.
func first(b []byte) []byte {
	b = bytes.TrimLeft(b, `"\`)
	_, size := utf8.DecodeRune(b)
	return b[:size]
}
