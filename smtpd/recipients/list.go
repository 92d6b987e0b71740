package recipients

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/names"
)

// Bounds of a file.
const (
	maxFile  = 256 << 20 // octets
	maxLine  = 1 << 10   // octets of a line
	maxNames = 4_000_000 // recipients
)

// file is a list on disk, and what was read of it last.
type file struct {
	path string
	list *list // nil: nothing yet
	err  error // of the last attempt to read it
	was  stamp // of what was tried last
	seen stamp // at the last look
}

// stamp tells one state of a file from the next.
type stamp struct {
	mod  time.Time
	size int64
	gone bool
}

func (f *file) stamp() stamp {
	fi, err := os.Stat(f.path)
	if err != nil {
		return stamp{gone: true}
	}
	return stamp{mod: fi.ModTime(), size: fi.Size()}
}

// due tells whether the file is to be read: it is another one than was read, and
// the same as at the last look.
func (f *file) due() bool {
	now := f.stamp()
	settled := now == f.seen
	f.seen = now
	return settled && now != f.was
}

// read reads the file. On an error what was read before stays.
func (f *file) read() error {
	f.was = f.stamp()
	f.seen = f.was
	l, err := load(f.path)
	f.err = err
	if err == nil {
		f.list = l
	}
	return err
}

// load reads a list from a regular file: whatever else it is, it is not waited
// for.
func load(path string) (*list, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	if fi.Size() > maxFile {
		return nil, fmt.Errorf("it has %d octets, and %d are the most", fi.Size(), maxFile)
	}
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return parse(io.LimitReader(in, maxFile))
}

// list is what a file says.
type list struct {
	names map[string]struct{} // local parts, and addresses; in lower case
	all   map[string]struct{} // domains of which all is taken; "": all
	n     int
}

// parse reads a list. The error names the line that is wrong; then nothing of it
// counts.
func parse(in io.Reader) (*list, error) {
	l := &list{names: map[string]struct{}{}, all: map[string]struct{}{}}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, maxLine), maxLine)
	n := 0
	for lines.Scan() {
		n++
		line, _, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "\ufeff"), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if l.n++; l.n > maxNames {
			return nil, fmt.Errorf("line %d: more than %d recipients", n, maxNames)
		}
		if err := l.add(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	switch {
	case errors.Is(lines.Err(), bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d is longer than %d octets", n+1, maxLine)
	case lines.Err() != nil:
		return nil, lines.Err()
	case l.n == 0:
		return nil, errors.New("no recipient stands in it; for a domain without any, write postmaster")
	}
	return l, nil
}

func (l *list) add(line string) error {
	if line == "*" {
		l.all[""] = struct{}{}
		return nil
	}
	if domain, ok := strings.CutPrefix(line, "@"); ok {
		if _, err := mail.ParseMailbox("x@"+domain, true); err != nil {
			return fmt.Errorf("%q is no domain: %w", line, err)
		}
		l.all[names.Fold(domain)] = struct{}{}
		return nil
	}
	text := line
	if !strings.Contains(line, "@") {
		text = line + "@x.example"
	}
	a, err := mail.ParseMailbox(text, true)
	if err != nil || !utf8.ValidString(line) {
		return fmt.Errorf("%q is neither an address nor a local part", line)
	}
	name := mail.FoldLocal(a.Local)
	if text == line {
		name += "@" + names.Fold(a.Domain)
	}
	l.names[name] = struct{}{}
	return nil
}

// has tells whether there is a recipient. Local parts are compared without regard
// to case.
func (l *list) has(local, domain, sub string) bool {
	if _, ok := l.all[""]; ok {
		return true
	}
	if _, ok := l.all[domain]; ok {
		return true
	}
	local = mail.FoldLocal(local)
	if l.name(local, domain) {
		return true
	}
	if sub == "" {
		return false
	}
	base, _, found := strings.Cut(local, sub)
	return found && base != "" && l.name(base, domain)
}

func (l *list) name(local, domain string) bool {
	if _, ok := l.names[local]; ok && !strings.Contains(local, "@") {
		return true
	}
	_, ok := l.names[local+"@"+domain]
	return ok
}
