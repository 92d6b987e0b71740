package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/clrelay/clrelay/internal/config/limits"
	"github.com/clrelay/clrelay/internal/config/strict"
)

// exampleLines writes a key of the top level with its documentation, as it
// stands in an example file.
func (k known) exampleLines(b *strings.Builder) {
	b.WriteString(wrap(k.doc(), 98, "# ") + "\n")
	mark := "#"
	if k.Required {
		mark = ""
	}
	inner := strict.Section(k.Type)
	switch {
	case inner == nil:
		fmt.Fprintf(b, "%s%s: %s\n", mark, k.Key, sample(k.Field))
	case k.Type.Kind() == reflect.Slice:
		fmt.Fprintf(b, "%s%s:\n%s  - %s\n", mark, k.Key, mark, flow(inner, true))
	default:
		fmt.Fprintf(b, "%s%s:\n", mark, k.Key)
		for _, f := range strict.Fields(inner) {
			fmt.Fprintf(b, "%s  %s: %s\n", mark, f.Key, sample(f))
		}
	}
}

// sample is a value for the example file: the default where there is one.
func sample(f strict.Field) string {
	if inner := strict.Section(f.Type); inner != nil && f.Type.Kind() == reflect.Slice {
		return "[" + shown(inner) + "]"
	} else if inner != nil {
		return flow(inner, false)
	}
	if f.Example != "" {
		return strict.Quoted(f.Example)
	}
	return strict.Quoted(f.Default)
}

// shown writes the settings of a section that have an example.
func shown(t reflect.Type) string {
	var parts []string
	for _, f := range strict.Fields(t) {
		if f.Example != "" {
			parts = append(parts, f.Key+": "+sample(f))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// flow writes a section in one line. Settings that exclude others, or need
// them, are left to the reference page.
func flow(t reflect.Type, requiredOnly bool) string {
	var parts []string
	for _, f := range strict.Fields(t) {
		inner := strict.Section(f.Type)
		switch {
		case t == reflect.TypeFor[Action]() && f.Key != "smarthost":
		case t == reflect.TypeFor[limits.Limit]() && requiredOnly:
			if slices.Contains([]string{"name", "per", "rate", "connections"}, f.Key) {
				parts = append(parts, f.Key+": "+sample(f))
			}
		case f.Required && inner != nil:
			parts = append(parts, f.Key+": "+sample(f))
		case inner == nil && (f.Required || !requiredOnly || f.Default != "" && len(f.Enum) > 0):
			parts = append(parts, f.Key+": "+sample(f))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
