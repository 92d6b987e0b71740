package strict

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// maxErrors bounds how many errors of one file are reported.
const maxErrors = 100

// maxShown bounds how many characters of a source line are shown.
const maxShown = 160

// Error is one thing wrong with a file. Line and Col count from 1; Col counts
// characters, not octets.
type Error struct {
	File   string
	Line   int
	Col    int
	Key    string // the setting, "receive.max_size"; empty where none is to blame
	Msg    string
	Source string // the line it stands in
}

// Error shows "FILE:LINE:COL: message", the source line and a caret.
func (e *Error) Error() string {
	src, col := window(e.Source, e.Col)
	var b strings.Builder
	b.WriteString(e.Line1())
	if strings.TrimSpace(src) == "" {
		return b.String()
	}
	b.WriteString("\n")
	pad := make([]rune, 0, col)
	n := 0
	for _, r := range src {
		if r != '\t' && !unicode.IsPrint(r) {
			r = '\uFFFD'
		}
		b.WriteRune(r)
		if n++; n < col {
			if r != '\t' {
				r = ' '
			}
			pad = append(pad, r) // tabs stay tabs, so that the caret stands right
		}
	}
	for len(pad) < col-1 {
		pad = append(pad, ' ')
	}
	b.WriteString("\n" + string(pad) + "^")
	return b.String()
}

// Line1 is the error without source line and caret.
func (e *Error) Line1() string {
	key := ""
	if e.Key != "" {
		key = e.Key + ": "
	}
	return fmt.Sprintf("%s:%d:%d: %s%s", e.File, e.Line, e.Col, key, e.Msg)
}

// window cuts a long line to what surrounds col.
func window(line string, col int) (string, int) {
	line = strings.TrimRight(line, "\r\n")
	r := []rune(line)
	if len(r) <= maxShown {
		return line, col
	}
	from := min(max(0, col-1-maxShown/2), len(r)-maxShown)
	return string(r[from : from+maxShown]), col - from
}

// Errors are all the errors of the files that were read together, in the
// order they stand in the files.
type Errors []*Error

// Error shows all of them.
func (e Errors) Error() string {
	var b strings.Builder
	for i, one := range e {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(one.Error())
	}
	if len(e) >= maxErrors {
		b.WriteString("\nand there may be more: mend these first")
	}
	return b.String()
}

func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return e
}
