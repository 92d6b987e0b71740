package strict

import (
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v4"
)

// Tree is what a file says, without how it says it: comments, quotes, and the
// order of keys are not in it. It is a section, a list or a word.
type Tree struct {
	Section map[string]*Tree // nil unless it is one
	List    []*Tree
	IsList  bool
	Word    string // as it is written
	Value   string // equal where words mean the same, as 120m and 2h do
	Secret  bool   // the word is not to be shown
}

// Tree gives what the file, a doc, says. It asks no more of it than that it is
// YAML: a text of another version of the program has one too. A list or section
// at the top that has nothing in it counts as left out, as it does in Fill.
func (f *File) Tree(doc Doc) (*Tree, error) {
	if errs := f.Errors(); len(errs) > 0 {
		return nil, errs
	}
	fields := map[string]Field{}
	for _, e := range Keys(doc) {
		fields[e.Path] = e.Field
	}
	if f.root == nil || isNull(f.root) {
		return &Tree{Section: map[string]*Tree{}}, nil
	}
	return treeOf(f.root, fields, ""), nil
}

// treeOf reads a node; path is the plain key of it.
func treeOf(n *yaml.Node, fields map[string]Field, path string) *Tree {
	switch n.Kind {
	case yaml.MappingNode:
		t := &Tree{Section: map[string]*Tree{}}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, val := n.Content[i].Value, n.Content[i+1]
			if path == "" && isNull(val) {
				continue
			}
			t.Section[key] = treeOf(val, fields, Join(path, key))
		}
		return t
	case yaml.SequenceNode:
		t := &Tree{IsList: true}
		for _, c := range n.Content {
			t.List = append(t.List, treeOf(c, fields, path))
		}
		return t
	}
	t := &Tree{Word: n.Value, Value: n.Value}
	if f, ok := fields[path]; ok {
		t.Value, t.Secret = meaning(f, n.Value), f.Secret
	}
	return t
}

// meaning makes of a word what is equal for all words that say the same. A word
// that the field does not take stands for itself.
func meaning(f Field, word string) string {
	if f.Type.Kind() == reflect.Slice && !isScalar(f.Type) {
		f.Type, f.Off = f.Type.Elem(), ""
	}
	if Section(f.Type) != nil {
		return word
	}
	v := reflect.New(f.Type).Elem()
	if setScalar(v, f, word) != nil {
		return word
	}
	return fmt.Sprint(v.Interface())
}
