package config

import (
	"fmt"
	"reflect"

	"github.com/clrelay/clrelay/internal/config/strict"
)

// NeedsRestart names the settings of node.yaml that differ and that SIGHUP
// cannot change: they keep their old values until the process starts anew.
func NeedsRestart(before, after *Node) []string {
	return changed("", reflect.ValueOf(*before), reflect.ValueOf(*after))
}

// ClusterNeedsRestart is NeedsRestart for cluster.yaml.
func ClusterNeedsRestart(before, after *Cluster) []string {
	return changed("", reflect.ValueOf(*before), reflect.ValueOf(*after))
}

// Keep puts the settings of before that NeedsRestart speaks of into after, so
// that after holds what is in force. A list that needs a restart is kept as a
// whole.
func Keep(before, after *Node) {
	keep(reflect.ValueOf(before).Elem(), reflect.ValueOf(after).Elem())
}

// KeepCluster is Keep for cluster.yaml.
func KeepCluster(before, after *Cluster) {
	keep(reflect.ValueOf(before).Elem(), reflect.ValueOf(after).Elem())
}

func keep(a, b reflect.Value) {
	for _, f := range strict.Fields(a.Type()) {
		old, now := f.Value(a), f.Value(b)
		switch {
		case !f.Restart && strict.Section(f.Type) != nil && f.Type.Kind() == reflect.Struct:
			keep(old, now)
		case f.Restart:
			now.Set(old)
		}
	}
}

// changed compares two sections by the restart tags of their fields. That of a
// list or of a section that may be left out speaks of the number of entries
// and of its being there; what is in it has tags of its own.
func changed(path string, a, b reflect.Value) []string {
	var out []string
	for _, f := range strict.Fields(a.Type()) {
		out = append(out, changedValue(strict.Join(path, f.Key), f, f.Value(a), f.Value(b))...)
	}
	return out
}

func changedValue(path string, f strict.Field, a, b reflect.Value) []string {
	inner := strict.Section(f.Type)
	switch {
	case inner != nil && f.Type.Kind() == reflect.Struct:
		return changed(path, a, b)
	case inner != nil && f.Type.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil():
		return changed(path, a.Elem(), b.Elem())
	case inner != nil && f.Type.Kind() == reflect.Slice && a.Len() == b.Len():
		var out []string
		for i := range a.Len() {
			out = append(out, changed(fmt.Sprintf("%s[%d]", path, i), a.Index(i), b.Index(i))...)
		}
		return out
	}
	if f.Restart && !reflect.DeepEqual(a.Interface(), b.Interface()) {
		return []string{path}
	}
	return nil
}
