package strict

import (
	"reflect"
	"strings"
)

// Scalar is a setting that is written as one word.
type Scalar interface {
	// Parse replaces the value, or leaves an error that says what is right.
	Parse(text string) error
	// Kind is what the documentation calls it: "duration".
	Kind() string
}

// Located is a Scalar that depends on the folder of the file that names it.
type Located interface {
	// Locate is called after Parse with that folder.
	Locate(dir string)
}

// Field is a key of a section, as the tags of a struct field describe it.
type Field struct {
	Struct, Name string // "Node", "Hostname"
	Key          string
	Default      string   // as a file would write it
	Derived      string   // the default in words, where it depends on something
	Enum         []string // the words that are allowed
	Off          string   // the word that stands for nothing
	Min, Max     string
	Required     bool
	Restart      bool // a change needs a restart
	Secret       bool // the value is never shown
	Example      string
	Type         reflect.Type

	index int
}

// Fields lists the keys of a section in the order of the struct.
func Fields(t reflect.Type) []Field {
	var out []Field
	for i := range t.NumField() {
		sf := t.Field(i)
		key, ok := sf.Tag.Lookup("key")
		if !ok {
			continue
		}
		f := Field{
			Struct: t.Name(), Name: sf.Name, index: i, Key: key, Type: sf.Type,
			Default: sf.Tag.Get("default"), Derived: sf.Tag.Get("derived"), Off: sf.Tag.Get("off"),
			Min: sf.Tag.Get("min"), Max: sf.Tag.Get("max"),
			Required: sf.Tag.Get("required") != "", Restart: sf.Tag.Get("restart") != "",
			Secret:  sf.Tag.Get("secret") != "",
			Example: sf.Tag.Get("example"),
		}
		if e := sf.Tag.Get("enum"); e != "" {
			f.Enum = strings.Split(e, "|")
		}
		out = append(out, f)
	}
	return out
}

// Value is the field of a struct that a Field describes.
func (f Field) Value(section reflect.Value) reflect.Value { return section.Field(f.index) }

// Section gives the struct behind a type that is written as a section, or as
// a list of sections; nil for others.
func Section(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice && !isScalar(t) {
		t = t.Elem()
	}
	if t.Kind() == reflect.Struct && !isScalar(t) {
		return t
	}
	return nil
}

func isScalar(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[Scalar]())
}

// Kind names the type for the reader of a reference.
func (f Field) Kind() string {
	t := f.Type
	switch {
	case len(f.Enum) > 0 && t.Kind() == reflect.Slice:
		return "list of: " + strings.Join(f.Enum, " | ")
	case len(f.Enum) > 0:
		return strings.Join(f.Enum, " | ")
	case isScalar(t):
		k := reflect.New(t).Interface().(Scalar).Kind()
		if f.Off != "" {
			k += " | " + f.Off
		}
		return k
	case t.Kind() == reflect.Slice && Section(t) != nil:
		return "list of sections"
	case t.Kind() == reflect.Slice:
		return "list of: " + Field{Type: t.Elem()}.Kind()
	case t.Kind() == reflect.Bool:
		return "true | false"
	case t.Kind() == reflect.Int || t.Kind() == reflect.Uint16:
		return "number"
	}
	return "section"
}

// Doc is one kind of file: its name and the type of its struct.
type Doc struct {
	Name string // "node.yaml"
	Type reflect.Type
}

// Entry is a key with its path from the top of its file.
type Entry struct {
	Path string // "smtp.listen"
	File string // "node.yaml"
	Field
}

// Keys lists every key of the kinds of files, sections before what is in them.
func Keys(docs ...Doc) []Entry {
	var out []Entry
	for _, d := range docs {
		out = append(out, keysBelow(d.Name, "", d.Type)...)
	}
	return out
}

func keysBelow(file, prefix string, t reflect.Type) []Entry {
	var out []Entry
	for _, f := range Fields(t) {
		out = append(out, Entry{prefix + f.Key, file, f})
		if s := Section(f.Type); s != nil {
			out = append(out, keysBelow(file, prefix+f.Key+".", s)...)
		}
	}
	return out
}

// CutLast splits "a.b.c" into "a.b" and "c".
func CutLast(path string) (section, key string) {
	i := strings.LastIndexByte(path, '.')
	return path[:max(i, 0)], path[i+1:]
}
