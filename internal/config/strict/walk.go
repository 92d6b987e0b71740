package strict

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// walker fills a configuration from a file, and finds everything wrong with
// how the file is written. What the settings mean together is checked
// afterwards.
type walker struct {
	*File
	doc  Doc
	docs []Doc // with those that it may be taken for
}

// Fill reads the whole file into the struct that dst points to, a docs[0]. The
// others are kinds of files that it may be taken for.
func (f *File) Fill(dst any, docs ...Doc) {
	w := &walker{File: f, doc: docs[0], docs: docs}
	v := reflect.ValueOf(dst).Elem()
	f.setDefaults(v)
	switch {
	case len(f.errs) > 0:
	case f.root == nil || isNull(f.root):
		w.missing(nil, v, "")
	default:
		w.value(f.root, v, Field{Type: v.Type()}, "")
	}
}

// value reads one node into v.
func (w *walker) value(n *yaml.Node, v reflect.Value, f Field, path string) {
	w.at[path] = pos{n.Line, n.Column}
	if !w.plainNode(n, path) {
		return
	}
	switch t := v.Type(); {
	case isNull(n):
		w.null(v, f, path)
	case isScalar(t) || t.Kind() == reflect.String || t.Kind() == reflect.Bool || t.Kind() == reflect.Int || t.Kind() == reflect.Uint16:
		w.scalar(n, v, f, path)
	case t.Kind() == reflect.Slice:
		w.list(n, v, f, path)
	case t.Kind() == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		w.setDefaults(v.Elem())
		w.section(n, v.Elem(), path)
	default:
		w.section(n, v, path)
	}
}

// plainNode refuses what makes a file hard to read or dangerous to expand.
func (w *walker) plainNode(n *yaml.Node, path string) bool {
	p := pos{n.Line, n.Column}
	switch {
	case n.Kind == yaml.AliasNode:
		w.errorf(p, path, "aliases (*%s) are not used here: write the value out", n.Value)
	case n.Anchor != "":
		w.errorf(p, path, "anchors (&%s) are not used here", n.Anchor)
	case n.Style&yaml.TaggedStyle != 0:
		w.errorf(p, path, "tags (%s) are not used here", n.Tag)
	default:
		return true
	}
	return false
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0
}

// null takes a key without a value for an empty list or section at the top of
// a file, where people comment the entries out; elsewhere it is an error.
func (w *walker) null(v reflect.Value, f Field, path string) {
	kind := v.Kind()
	if !strings.ContainsAny(path, ".[") && !isScalar(v.Type()) && (kind == reflect.Slice || kind == reflect.Struct) {
		if kind == reflect.Slice {
			v.SetZero()
		} else {
			w.missing(nil, v, path)
		}
		return
	}
	if f.Required || strings.HasSuffix(path, "]") {
		w.Bad(path, "has no value")
		return
	}
	w.Bad(path, "has no value; leave the key out for the default")
}

// section reads a mapping into the struct v.
func (w *walker) section(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		w.Bad(path, "a section is wanted here (key: value), and this is %s", kindName(n))
		return
	}
	fs := Fields(v.Type())
	seen := map[string]int{}     // the line of each key
	misspelt := map[string]int{} // of each key that another was meant to be
	for i := 0; i+1 < len(n.Content) && len(w.errs) < maxErrors; i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		p := pos{k.Line, k.Column}
		if k.Kind != yaml.ScalarNode {
			w.errorf(p, path, "a key is one word, and this is %s", kindName(k))
			continue
		}
		at := slices.IndexFunc(fs, func(f Field) bool { return f.Key == k.Value })
		if at < 0 {
			tail, instead := w.meant(k.Value, path, fs)
			w.errorf(p, path, "unknown key %q%s", short(k.Value), tail)
			if _, ok := seen[instead]; !ok && instead != "" {
				misspelt[instead] = k.Line
			}
			continue
		}
		if line, dup := seen[k.Value]; dup {
			w.errorf(p, Join(path, k.Value), "is already set in line %d", line)
			continue
		}
		seen[k.Value] = k.Line
		w.value(val, v.Field(fs[at].index), fs[at], Join(path, k.Value))
	}
	maps.Copy(misspelt, seen)
	w.missing(misspelt, v, path)
}

// missing reports the required keys that are not in seen.
func (w *walker) missing(seen map[string]int, v reflect.Value, path string) {
	for _, f := range Fields(v.Type()) {
		if _, ok := seen[f.Key]; f.Required && !ok {
			example := ""
			if f.Example != "" {
				example = fmt.Sprintf(", as in %s: %s", f.Key, Quoted(f.Example))
			}
			w.Bad(path, "the key %q is missing%s", f.Key, example)
		}
	}
}

// meant guesses what an unknown key was meant to be: another key of the
// section, which it returns, or one that belongs elsewhere. tail is the end of
// the message.
func (w *walker) meant(word, path string, fs []Field) (tail, instead string) {
	var names []string
	for _, f := range fs {
		names = append(names, f.Key)
	}
	if word == "<<" {
		return ": keys are not merged here, write them out", ""
	}
	if g := Guess(word, names); g != "" {
		return DidYouMean(word, names), g
	}
	var places []string
	for _, k := range Keys(w.docs...) {
		if k.Key != word {
			continue
		}
		switch section, _ := CutLast(k.Path); {
		case k.File != w.doc.Name && section == "":
			places = append(places, k.File)
		case k.File == w.doc.Name && section == "":
			places = append(places, "the top of the file")
		case k.File == w.doc.Name && section != PlainKey(path):
			places = append(places, section)
		}
	}
	if len(places) > 0 {
		return "; it belongs into " + OneOf(slices.Compact(places)), ""
	}
	return "; known here: " + strings.Join(names, ", "), ""
}

// list reads a sequence.
func (w *walker) list(n *yaml.Node, v reflect.Value, f Field, path string) {
	if n.Kind != yaml.SequenceNode {
		hint := ""
		if n.Kind == yaml.ScalarNode {
			hint = fmt.Sprintf(": write [%s]", Quoted(short(n.Value)))
		} else {
			hint = ": begin each entry with \"- \""
		}
		w.Bad(path, "a list is wanted here, and this is %s%s", kindName(n), hint)
		return
	}
	elem := f
	elem.Type, elem.Off = f.Type.Elem(), ""
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, c := range n.Content {
		if len(w.errs) >= maxErrors {
			break
		}
		e := v.Index(i)
		if Section(e.Type()) != nil {
			w.setDefaults(e)
		}
		w.value(c, e, elem, path+"["+strconv.Itoa(i)+"]")
	}
}

// scalar reads one word.
func (w *walker) scalar(n *yaml.Node, v reflect.Value, f Field, path string) {
	if n.Kind != yaml.ScalarNode {
		w.Bad(path, "%s is wanted here, and this is %s%s", f.Kind(), kindName(n), w.colonHint(n))
		return
	}
	bare := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	if !bare && v.Kind() != reflect.String && !isScalar(v.Type()) {
		w.Bad(path, "%s is wanted here, and quotes make it text", f.Kind())
		return
	}
	if err := setScalar(v, f, n.Value); err != nil {
		w.Bad(path, "%v", orOff(f, n.Value, err))
		return
	}
	w.locate(v)
}

var likeOff = regexp.MustCompile(`^(0+[smhd]?|off|no|none|never|false|disabled?|unlimited)$`)

// orOff says in an error which word stands for nothing, where there is one. Who
// writes 0 where that is unlimited may want either.
func orOff(f Field, text string, err error) error {
	switch {
	case f.Off == "":
		return err
	case likeOff.MatchString(strings.ToLower(text)) && (f.Off != "unlimited" || text[0] != '0'):
		return fmt.Errorf("%q is not the word for it here: write %s", text, f.Off)
	}
	return fmt.Errorf("%w, or %s", err, f.Off)
}

// locate tells a value the folder of the file.
func (f *File) locate(v reflect.Value) {
	if l, ok := v.Addr().Interface().(Located); ok {
		l.Locate(f.dir)
	}
}

// setScalar parses text into v and checks its bounds.
func setScalar(v reflect.Value, f Field, text string) error {
	switch {
	case f.Off != "" && text == f.Off:
		v.SetZero()
		return nil
	case len(f.Enum) > 0:
		if !slices.Contains(f.Enum, text) {
			return fmt.Errorf("%q is not %s%s", short(text), OneOf(f.Enum), DidYouMean(text, f.Enum))
		}
		v.SetString(text)
		return nil
	case isScalar(v.Type()):
		if err := v.Addr().Interface().(Scalar).Parse(text); err != nil {
			return err
		}
	case v.Kind() == reflect.Bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%q is not true or false", short(text))
		}
		v.SetBool(text == "true")
	default:
		i, err := strconv.Atoi(text)
		if err != nil || text != strconv.Itoa(i) {
			return fmt.Errorf("%q is no whole number", short(text))
		}
		if v.Kind() == reflect.Uint16 {
			return port(v, f, i)
		}
		v.SetInt(int64(i))
	}
	return bounds(v, f)
}

// port sets a number of 16 bits.
func port(v reflect.Value, f Field, i int) error {
	wide := reflect.New(reflect.TypeFor[int]()).Elem()
	wide.SetInt(int64(i))
	if err := bounds(wide, f); err != nil {
		return err
	}
	if i < 0 || v.OverflowUint(uint64(i)) {
		return fmt.Errorf("%d is out of bounds: 0 to 65535", i)
	}
	v.SetUint(uint64(i))
	return nil
}

// bounds checks what counts against min and max.
func bounds(v reflect.Value, f Field) error {
	if !v.CanInt() {
		return nil
	}
	for _, b := range []struct {
		limit string
		wrong int
		word  string
	}{{f.Min, -1, "least"}, {f.Max, 1, "most"}} {
		if b.limit == "" {
			continue
		}
		limit := reflect.New(v.Type()).Elem()
		if err := setScalar(limit, Field{Type: v.Type()}, b.limit); err != nil {
			return fmt.Errorf("bad bound %q: %w", b.limit, err)
		}
		if cmp.Compare(v.Int(), limit.Int()) == b.wrong {
			return fmt.Errorf("%v is out of bounds: at %s %v", v.Interface(), b.word, limit.Interface())
		}
	}
	return nil
}

// setDefaults sets the defaults of a section and of the sections in it.
func (f *File) setDefaults(section reflect.Value) {
	for _, fd := range Fields(section.Type()) {
		v := fd.Value(section)
		switch {
		case v.Kind() == reflect.Slice && fd.Default != "":
			d := Parse("default", f.dir, []byte(fd.Key+": "+fd.Default))
			(&walker{File: d}).value(d.root.Content[1], v, Field{Type: fd.Type}, fd.Key)
		case fd.Default != "":
			_ = setScalar(v, fd, fd.Default) // the tests of config read each of them
			f.locate(v)
		case v.Kind() == reflect.Struct && Section(fd.Type) != nil:
			f.setDefaults(v)
		}
	}
}

var colonText = regexp.MustCompile(`^[0-9A-Fa-f]*:[0-9A-Fa-f:.]*`)

// colonHint says what to do about an IPv6 address that YAML took for a
// section, as in [2001:db8:: ].
func (w *walker) colonHint(n *yaml.Node) string {
	if n.Kind != yaml.MappingNode || n.Line < 1 || n.Line > len(w.lines) {
		return ""
	}
	line := []rune(w.lines[n.Line-1])
	if m := colonText.FindString(string(line[min(max(n.Column-1, 0), len(line)):])); m != "" {
		return fmt.Sprintf("; quote IPv6 addresses: %q", m)
	}
	return ""
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	return fmt.Sprintf("%q", short(n.Value))
}

// short keeps a foreign word fit for a message.
func short(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "..."
	}
	return s
}

// Join puts a key behind the path of its section.
func Join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

var needsQuotes = regexp.MustCompile(`^[:*&!%@]|: |::`)

// Quoted puts quotes around a word that YAML would misread without them.
func Quoted(s string) string {
	if needsQuotes.MatchString(s) && !strings.HasPrefix(s, "[") {
		return strconv.Quote(s)
	}
	return s
}
