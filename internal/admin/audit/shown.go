package audit

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxShown is how many of a list are shown.
const maxShown = 20

// sorted puts what Range gave in any order into one.
func sorted(parts []string) []string {
	slices.Sort(parts)
	return slices.DeleteFunc(parts, func(s string) bool { return s == "" })
}

// shown gives the value of a field in one line.
func shown(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch {
	case f.IsMap():
		return fmt.Sprintf("(%d entries)", v.Map().Len())
	case f.IsList():
		var parts []string
		list := v.List()
		for i := range min(list.Len(), maxShown) {
			parts = append(parts, single(f, list.Get(i)))
		}
		if more := list.Len() - maxShown; more > 0 {
			parts = append(parts, fmt.Sprintf("and %d more", more))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return single(f, v)
}

func single(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		var parts []string
		v.Message().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			parts = append(parts, fmt.Sprintf("%s=%s", f.Name(), shown(f, v)))
			return true
		})
		return "{" + strings.Join(sorted(parts), " ") + "}"
	case protoreflect.BytesKind:
		// What it is can be found by its hash, and is not to be read here.
		return fmt.Sprintf("(%d octets, sha256 %x)", len(v.Bytes()), sha256.Sum256(v.Bytes()))
	case protoreflect.EnumKind:
		if n := f.Enum().Values().ByNumber(v.Enum()); n != nil {
			return string(n.Name())
		}
	}
	return v.String()
}
