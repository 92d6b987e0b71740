package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/clrelay/clrelay/internal/config/strict"
)

// known is a key and what is said about it.
type known struct{ strict.Entry }

func docs() (node, cluster strict.Doc) {
	return strict.Doc{Name: "node.yaml", Type: reflect.TypeFor[Node]()}, strict.Doc{Name: "cluster.yaml", Type: reflect.TypeFor[Cluster]()}
}

// allKeys lists every key of both files, sections before what is in them.
func allKeys() []known {
	var out []known
	for _, k := range strict.Keys(docs()) {
		out = append(out, known{k})
	}
	return out
}

// doc is the documentation of the setting.
func (k known) doc() string { return comment(k.Struct + "." + k.Name) }

// defaultText is the default for the reader, "" where there is none.
func (k known) defaultText() string { return cmp.Or(k.Default, k.Derived) }

// Explain describes a setting, "receive.max_size", for the command line. A
// name that is no path but ends one stands for it; for others the error says
// what may have been meant.
func Explain(key string) (string, error) {
	keys := allKeys()
	var paths, ends []string
	for _, k := range keys {
		if k.Path == key {
			return k.explain(keys), nil
		}
		paths = append(paths, k.Path)
		if k.Key == key || strings.HasSuffix(k.Path, "."+key) {
			ends = append(ends, k.Path)
		}
	}
	switch {
	case len(ends) == 1:
		return Explain(ends[0])
	case len(ends) > 1:
		return "", fmt.Errorf("config: %q is in several sections: %s", key, strict.OneOf(ends))
	}
	if g := strict.Guess(key, paths); g != "" {
		return "", fmt.Errorf("config: there is no setting %q; did you mean %q?", key, g)
	}
	_, last := strict.CutLast(key)
	for _, k := range keys {
		if last != "" && strict.Guess(last, []string{k.Key}) != "" {
			ends = append(ends, k.Path)
		}
	}
	if len(ends) > 0 {
		return "", fmt.Errorf("config: there is no setting %q; did you mean %s?", key, strict.OneOf(ends))
	}
	return "", fmt.Errorf("config: there is no setting %q", key)
}

// Keys lists all settings of both files as Explain takes them.
func Keys() []string {
	var out []string
	for _, k := range allKeys() {
		out = append(out, k.Path)
	}
	return out
}

func (k known) explain(all []known) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s)\n\n", k.Path, k.File)
	b.WriteString(wrap(k.doc(), 76, "") + "\n\n")
	for _, line := range k.facts() {
		fmt.Fprintf(&b, "%-9s %s\n", line[0]+":", line[1])
	}
	if below := childrenOf(k.Path, all); len(below) > 0 {
		fmt.Fprintf(&b, "%-9s %s\n", "keys:", strings.TrimSpace(wrap(strings.Join(below, ", "), 66, "          ")))
	}
	return b.String()
}

// facts are what the reference and Explain say besides the documentation.
func (k known) facts() [][2]string {
	out := [][2]string{{"type", k.Kind()}}
	if k.Min != "" || k.Max != "" {
		out = append(out, [2]string{"bounds", boundsText(k.Field)})
	}
	switch {
	case k.Required:
		out = append(out, [2]string{"default", "none, it must be there"})
	case k.defaultText() != "":
		out = append(out, [2]string{"default", k.defaultText()})
	case k.Type.Kind() == reflect.Slice:
		out = append(out, [2]string{"default", "empty"})
	}
	if k.Example != "" {
		out = append(out, [2]string{"example", k.Key + ": " + strict.Quoted(k.Example)})
	}
	if strict.Section(k.Type) == nil {
		reload := "SIGHUP is enough"
		if k.Restart {
			reload = "needs a restart"
		}
		out = append(out, [2]string{"change", reload})
	}
	return out
}

func boundsText(f strict.Field) string {
	switch {
	case f.Max == "":
		return "at least " + f.Min
	case f.Min == "":
		return "at most " + f.Max
	}
	return f.Min + " to " + f.Max
}

func childrenOf(path string, all []known) []string {
	var out []string
	for _, k := range all {
		if parent, key := strict.CutLast(k.Path); parent == path && key != "" {
			out = append(out, key)
		}
	}
	return out
}

// wrap breaks text into lines of at most width, each after the indent.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	col := 0
	for _, word := range strings.Fields(text) {
		switch {
		case col == 0:
			b.WriteString(indent)
		case col+1+len(word) > width:
			b.WriteString("\n" + indent)
			col = 0
		default:
			b.WriteString(" ")
			col++
		}
		b.WriteString(word)
		col += len(word)
	}
	return b.String()
}

// Reference renders docs/configuration.md.
func Reference() string {
	var b strings.Builder
	b.WriteString(referenceHead)
	all := allKeys()
	for _, file := range []string{"node.yaml", "cluster.yaml"} {
		about := "What differs from machine to machine. `clrelay serve --config node.yaml` reads it."
		if file == "cluster.yaml" {
			about = "What all machines share. The key `cluster_config` of node.yaml names it. An empty file is a relay that takes no mail but the postmaster's."
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n```yaml\n%s```\n", file, about, Example(file))
		for _, k := range all {
			if k.File == file {
				k.reference(&b)
			}
		}
	}
	return b.String()
}

const referenceHead = `# Configuration

Generated from the comments in ` + "`internal/config`" + ` by ` + "`go generate ./internal/config`" + `; do not edit.

Two files in YAML. Both are read strictly: an unknown or misspelt key, a wrong type or a bad value is an error with file, line and column,
and clrelay does not start (exit code 78). ` + "`clrelay config validate FILE`" + ` shows all errors at once, ` + "`clrelay config explain KEY`" + ` shows
an entry of this page. Anchors, aliases, tags and merge keys of YAML are not used. A path that is not absolute starts at the folder of the file that
names it. SIGHUP reads both files again: a file with errors is reported and changes nothing; settings that need a restart are named in the log.
In a cluster the settings of cluster.yaml come from the cluster: there ` + "`clrelay config apply -f FILE`" + ` does for all nodes what SIGHUP does for one.

How values are written:

| type | form |
| --- | --- |
| duration | a number and ` + "`s`, `m`, `h` or `d`" + `: ` + "`30s`, `5m`, `1h30m`, `5d`" + ` |
| size | octets, or a whole number and ` + "`kB`, `MB`, `GB`" + ` (powers of 1000) or ` + "`KiB`, `MiB`, `GiB`" + ` (powers of 1024) |
| listen address | ` + "`\":25\"`" + ` for all addresses of the machine, ` + "`127.0.0.1:25`, `\"[::1]:25\"`" + ` |
| network | ` + "`10.0.0.0/8`, `192.0.2.1`, `\"2001:db8::/32\"`" + `; the bits behind the prefix must be zero |
| domain | ` + "`example.edu`" + `; names with other letters than ASCII are turned into A-labels |
| rate | a whole number, a slash and ` + "`s`, `m`, `h` or `d`" + `: ` + "`60/s`, `1000/m`, `5000/h`" + `; of octets also a size: ` + "`10MiB/s`" + ` |
| domain pattern | a domain, or ` + "`\"*.example.edu\"`" + ` for all below it and not itself |
| host:port | ` + "`mail.example.edu`, `mail.example.edu:587`, `192.0.2.1:25`, `\"[2001:db8::1]:25\"`" + ` |

Quote what holds ` + "`*`" + ` or ` + "`::`" + ` at its beginning, and IPv6 addresses altogether: YAML gives them other meanings.
`

func (k known) reference(b *strings.Builder) {
	level := "###"
	if strings.Contains(k.Path, ".") {
		level = "####"
	}
	fmt.Fprintf(b, "\n%s %s\n\n%s\n\n", level, k.Path, strings.ReplaceAll(k.doc(), "<", "\\<"))
	for _, f := range k.facts() {
		if f[0] == "example" || slices.Contains([]string{"type", "default", "bounds"}, f[0]) && f[1] != "section" && k.Derived != f[1] && !strings.Contains(f[1], "must be") {
			f[1] = "`" + f[1] + "`"
		}
		fmt.Fprintf(b, "- %s: %s\n", f[0], f[1])
	}
}

// Example renders a file with every setting, commented out where it may be
// left out. file is "node.yaml" or "cluster.yaml".
func Example(file string) string {
	var b strings.Builder
	for _, k := range allKeys() {
		if k.File != file || strings.Contains(k.Path, ".") {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("\n")
		}
		k.exampleLines(&b)
	}
	return b.String()
}
