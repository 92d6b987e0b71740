package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"
)

// The formats of -o.
const (
	formatTable = "table"
	formatJSON  = "json"
	formatLines = "jsonl"
	formatYAML  = "yaml"
)

// tableRows is how many rows of a long table are aligned together.
const tableRows = 1000

// checkFormat refuses what -o does not know before anything is done.
func (a *App) checkFormat(cmd *cobra.Command, _ []string) error {
	switch a.format {
	case formatTable, formatJSON, formatLines, formatYAML:
		return nil
	}
	return usagef(cmd.CommandPath(), "unknown output format %q: table, json, jsonl or yaml", a.format)
}

// object prints one thing: in the stable formats v, else what table writes.
func (a *App) object(v any, table func(w io.Writer) error) error {
	w := bufio.NewWriter(a.Stdout)
	if a.format == formatTable {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		if err := table(tw); err != nil {
			return err
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		return w.Flush()
	}
	text, err := marshal(v)
	if err != nil {
		return err
	}
	switch a.format {
	case formatLines:
		_, err = w.Write(append(text, '\n'))
	case formatYAML:
		err = writeYAML(w, text, "")
	default:
		err = indent(w, text, "")
	}
	if err != nil {
		return err
	}
	return w.Flush()
}

// list prints many things of one kind as they come.
type list struct {
	format string
	w      *bufio.Writer
	tw     *tabwriter.Writer
	head   string
	rows   int
}

func (a *App) list(columns ...string) *list {
	l := &list{format: a.format, w: bufio.NewWriterSize(a.Stdout, 64<<10)}
	if l.format == formatTable {
		l.tw = tabwriter.NewWriter(l.w, 0, 0, 2, ' ', 0)
		l.head = strings.Join(columns, "\t")
	}
	return l
}

// row prints one thing: in the stable formats v, else the cells.
func (l *list) row(v any, cells ...string) error {
	l.rows++
	if l.format == formatTable {
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
	text, err := marshal(v)
	if err != nil {
		return err
	}
	switch l.format {
	case formatLines:
		_, err = l.w.Write(append(text, '\n'))
	case formatYAML:
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

// end finishes the list. An empty one is "[]", but nothing as a table or as
// JSON lines.
func (l *list) end() error {
	var err error
	switch {
	case l.format == formatTable:
		err = l.tw.Flush()
	case l.rows == 0 && l.format != formatLines:
		_, err = l.w.WriteString("[]\n")
	case l.format == formatJSON:
		_, err = l.w.WriteString("\n]\n")
	}
	if err != nil {
		return err
	}
	return l.w.Flush()
}

func marshal(v any) ([]byte, error) {
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

// cell makes foreign text fit for a table on a terminal: one line, without
// anything a terminal would obey, and not too long.
func cell(s string, limit int) string {
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
