package cmdline

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
)

// The formats of -o.
const (
	FormatTable = "table"
	FormatJSON  = "json"
	FormatLines = "jsonl"
	FormatYAML  = "yaml"
)

// tableRows is how many rows of a long table are aligned together.
const tableRows = 1000

// CheckFormat refuses what -o does not know.
func CheckFormat(format string) error {
	switch format {
	case FormatTable, FormatJSON, FormatLines, FormatYAML:
		return nil
	}
	return fmt.Errorf("unknown output format %q: table, json, jsonl or yaml", format)
}

// Object prints one thing: in the stable formats v, else what table writes.
func (c *Console) Object(v any, table func(w io.Writer) error) error {
	w := bufio.NewWriter(c.Stdout)
	if c.Format == FormatTable {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		if err := table(tw); err != nil {
			return err
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		return w.Flush()
	}
	text, err := Marshal(v)
	if err != nil {
		return err
	}
	switch c.Format {
	case FormatLines:
		_, err = w.Write(append(text, '\n'))
	case FormatYAML:
		err = writeYAML(w, text, "")
	default:
		err = indent(w, text, "")
	}
	if err != nil {
		return err
	}
	return w.Flush()
}

// List prints many things of one kind as they come.
type List struct {
	format string
	w      *bufio.Writer
	tw     *tabwriter.Writer
	head   string
	rows   int
}

// List begins a list with these columns.
func (c *Console) List(columns ...string) *List {
	l := &List{format: c.Format, w: bufio.NewWriterSize(c.Stdout, 64<<10)}
	if l.format == FormatTable {
		l.tw = tabwriter.NewWriter(l.w, 0, 0, 2, ' ', 0)
		l.head = strings.Join(columns, "\t")
	}
	return l
}

// Row prints one thing: in the stable formats v, else the cells.
func (l *List) Row(v any, cells ...string) error {
	l.rows++
	if l.format == FormatTable {
		if l.rows == 1 {
			if _, err := fmt.Fprintln(l.tw, l.head); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintln(l.tw, strings.Join(cells, "\t")); err != nil {
			return err
		}
		if l.rows%tableRows == 0 {
			return l.tw.Flush()
		}
		return nil
	}
	text, err := Marshal(v)
	if err != nil {
		return err
	}
	switch l.format {
	case FormatLines:
		_, err = l.w.Write(append(text, '\n'))
	case FormatYAML:
		err = writeYAML(l.w, append(append([]byte("["), text...), ']'), "")
	default:
		lead := ",\n  "
		if l.rows == 1 {
			lead = "[\n  "
		}
		if _, err = l.w.WriteString(lead); err == nil {
			_, err = l.w.Write(text)
		}
	}
	return err
}

// End finishes the list. An empty one is "[]", but nothing as a table or as
// JSON lines.
func (l *List) End() error {
	var err error
	switch {
	case l.format == FormatTable:
		err = l.tw.Flush()
	case l.rows == 0 && l.format != FormatLines:
		_, err = l.w.WriteString("[]\n")
	case l.format == FormatJSON:
		_, err = l.w.WriteString("\n]\n")
	}
	if err != nil {
		return err
	}
	return l.w.Flush()
}

// Cut ends a list that is not complete: what came is worth something, and must
// not look complete. The error that counts is the caller's.
func (l *List) Cut() {
	if l.rows == 0 {
		return
	}
	if l.tw != nil {
		_ = l.tw.Flush()
	}
	_ = l.w.Flush()
}

// Marshal writes JSON on one line, with < and > as they are.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func indent(w io.Writer, text []byte, prefix string) error {
	var b bytes.Buffer
	if err := json.Indent(&b, text, prefix, "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// Cell makes foreign text fit for a table on a terminal: one line, without
// anything a terminal would obey, and not too long.
func Cell(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r == '\t' || r == '\n' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '\ufffd'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > limit {
		return string(r[:limit-3]) + "..."
	}
	return s
}
