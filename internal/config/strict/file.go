package strict

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// MaxFileSize bounds a configuration file: some 100,000 entries.
const MaxFileSize = 4 << 20

// maxDepth bounds how deep lists and sections are nested. What is allowed
// needs six levels.
const maxDepth = 32

// pos is a place in a file; both count from 1.
type pos struct{ line, col int }

// File is one file on its way to a configuration. It collects everything that
// is wrong with it.
type File struct {
	name     string // as the caller named the file
	dir      string // relative paths in the file start here
	text     []byte
	lines    []string
	root     *yaml.Node      // nil when the file says nothing
	at       map[string]pos  // where the value of a key stands
	broken   map[string]bool // keys with an error of their own
	errs     Errors
	warnings Errors
}

// Read reads and parses a file. The error says that it cannot be read; what is
// wrong with its text is found in the File.
func Read(path string) (*File, error) {
	fd, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer fd.Close() //nolint:errcheck // it is only read
	text, err := io.ReadAll(io.LimitReader(fd, MaxFileSize+1))
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("folder of %s: %w", path, err)
	}
	return Parse(path, dir, text), nil
}

// Parse parses what was read from a file. name is for messages; relative paths
// start at dir.
func Parse(name, dir string, text []byte) *File {
	f := &File{name: name, dir: dir, text: text, at: map[string]pos{"": {1, 1}}, broken: map[string]bool{}}
	if len(text) > MaxFileSize {
		f.lines = []string{""}
		f.errorf(pos{1, 1}, "", "the file is larger than %d octets: this is no configuration", MaxFileSize)
		return f
	}
	doc := strings.TrimPrefix(string(text), "\uFEFF")
	f.lines = splitLines(doc)
	if !f.textOK(doc) {
		return f
	}
	var root yaml.Node
	err := yaml.Load([]byte(doc), &root, yaml.WithAllDocuments(false), yaml.WithPlugin(limits{}))
	var le *yaml.LoadError
	switch {
	case err == nil && len(root.Content) > 0:
		f.root = root.Content[0]
	case err == nil:
	case errors.As(err, &le) && strings.Contains(le.Message, "no documents in stream"):
	case errors.As(err, &le):
		f.syntaxError(le)
	default:
		f.errorf(pos{1, 1}, "", "cannot be read as YAML: %v", err)
	}
	return f
}

// Text is what was read.
func (f *File) Text() []byte { return f.text }

// Parsed tells whether there is something to check: the text is YAML, or
// nothing.
func (f *File) Parsed() bool { return len(f.errs) == 0 || f.root != nil }

// Errors are what is wrong with the file, in the order it stands there.
func (f *File) Errors() Errors { return f.errs.sorted() }

// Warnings are what Warn said, in the order it stands in the file.
func (f *File) Warnings() Errors { return f.warnings.sorted() }

// TopKeys lists the keys at the top of the file, known or not.
func (f *File) TopKeys() []string {
	var out []string
	if f.root != nil && f.root.Kind == yaml.MappingNode {
		for i := 0; i < len(f.root.Content); i += 2 {
			out = append(out, f.root.Content[i].Value)
		}
	}
	return out
}

// limits refuses files that are nested too deep while they are parsed. Aliases
// are refused later, before anything is expanded.
type limits struct{}

// CheckDepth is called by the parser at every level.
func (limits) CheckDepth(depth int, _ *yaml.DepthContext) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	return nil
}

// CheckAlias is never called: the node tree is not expanded.
func (limits) CheckAlias(int, int) error { return nil }

// textOK refuses what YAML would misread or a terminal would not show.
func (f *File) textOK(doc string) bool {
	line, col := 1, 1
	for i, r := range doc {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(doc[i:], "\uFFFD"):
			f.errorf(pos{line, col}, "", "not UTF-8 text: octet 0x%02x", doc[i])
			return false
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0x7f, r == 0x85, r == 0x2028, r == 0x2029:
			f.errorf(pos{line, col}, "", "control character U+%04X", r)
			return false
		case r == '\n':
			line, col = line+1, 0
		}
		col++
	}
	return true
}

// splitLines cuts at what YAML takes as line breaks.
func splitLines(doc string) []string {
	doc = strings.ReplaceAll(doc, "\r\n", "\n")
	return strings.Split(strings.ReplaceAll(doc, "\r", "\n"), "\n")
}

// clamp puts a position into the file: a parser reports an unexpected end one
// line behind the last one.
func (f *File) clamp(p pos) pos {
	last := len(f.lines)
	for last > 1 && f.lines[last-1] == "" {
		last--
	}
	if p.line > last {
		return pos{last, utf8.RuneCountInString(f.lines[last-1]) + 1}
	}
	p.line = max(p.line, 1)
	p.col = min(max(p.col, 1), utf8.RuneCountInString(f.lines[p.line-1])+1)
	return p
}

func (f *File) make(p pos, key, format string, args ...any) *Error {
	p = f.clamp(p)
	return &Error{File: f.name, Line: p.line, Col: p.col, Key: PlainKey(key), Msg: fmt.Sprintf(format, args...), Source: f.lines[p.line-1]}
}

func (f *File) errorf(p pos, key, format string, args ...any) {
	f.broken[key] = true
	if len(f.errs) < maxErrors {
		f.errs = append(f.errs, f.make(p, key, format, args...))
	}
}

// Bad reports an error at the value of a key, or where the nearest section
// around it begins when it is not there.
func (f *File) Bad(key, format string, args ...any) {
	f.errorf(f.find(key), key, format, args...)
}

// Warn is Bad for what is allowed and yet likely wrong.
func (f *File) Warn(key, format string, args ...any) {
	if len(f.warnings) < maxErrors {
		f.warnings = append(f.warnings, f.make(f.find(key), key, format, args...))
	}
}

func (f *File) find(key string) pos {
	for {
		if p, ok := f.at[key]; ok {
			return p
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
}

// Fine tells whether no error was reported at the key itself: what is made of
// a wrong value is not worth a second error.
func (f *File) Fine(key string) bool { return !f.broken[key] }

// Line is the line that Bad would name.
func (f *File) Line(key string) int { return f.find(key).line }

// Has tells whether the file holds the key.
func (f *File) Has(key string) bool {
	_, ok := f.at[key]
	return ok
}

var indexes = regexp.MustCompile(`\[\d+\]`)

// PlainKey is the key without list positions, as Explain takes it.
func PlainKey(key string) string { return indexes.ReplaceAllString(key, "") }

var (
	bareIPv6  = regexp.MustCompile(`(^|[\s,{\[])(\[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*\](:\d+)?)`)
	bareAlias = regexp.MustCompile(`^\*[^\s,\]}]*`)
)

// syntaxError turns what the YAML parser said into words that help.
func (f *File) syntaxError(le *yaml.LoadError) {
	p := f.clamp(pos{le.Mark.Line, le.Mark.Column})
	line := []rune(f.lines[p.line-1])
	rest := string(line[min(p.col-1, len(line)):])
	switch m := bareIPv6.FindStringSubmatch(string(line)); {
	case strings.Contains(le.Message, "unknown anchor") && bareAlias.MatchString(rest):
		f.errorf(p, "", "* begins an alias in YAML; quote it: %q", bareAlias.FindString(rest))
	case strings.HasPrefix(rest, "\t"):
		f.errorf(p, "", "a tab: YAML is indented with spaces")
	case strings.Contains(le.Message, "expected single document"):
		f.errorf(f.secondDocument(), "", "a second document begins here: a file holds one")
	case m != nil && strings.Contains(le.Message, "did not find expected"):
		f.errorf(p, "", "quote IPv6 addresses in brackets: %q", m[2])
	case strings.Contains(le.Message, "cannot start any token") && rest != "":
		f.errorf(p, "", "a value cannot begin with %q here; quote it", string([]rune(rest)[:1]))
	case strings.Contains(le.Message, "mapping values are not allowed"):
		f.errorf(p, "", "a second \":\" in one line, or wrong indentation: quote values that hold \": \"")
	default:
		msg := strings.TrimPrefix(le.Message, "yaml: ")
		if le.ContextMsg != "" {
			msg = le.ContextMsg + ": " + msg
			if c := le.ContextMark.Line; c > 0 && c != le.Mark.Line {
				msg += fmt.Sprintf(" (it begins in line %d)", c)
			}
		}
		f.errorf(p, "", "not YAML: %s", msg)
	}
}

func (f *File) secondDocument() pos {
	seen := false
	for i, l := range f.lines {
		if strings.HasPrefix(l, "---") && seen {
			return pos{i + 1, 1}
		}
		if t := strings.TrimSpace(l); t != "" && t[0] != '#' {
			seen = true
		}
	}
	return pos{1, 1}
}
