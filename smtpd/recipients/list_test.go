package recipients

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/names"
)

func address(t testing.TB, text string) mail.Address {
	t.Helper()
	a, err := mail.ParseMailbox(text, true)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestWhoIsListed(t *testing.T) {
	const one = "\ufeff# people\nJane\n  john.doe@Example.EDU # moved\n\"odd one\"\nonly@bücher.example\n@all.example\r\nx+y\n"
	l, err := parse(strings.NewReader(one))
	if err != nil || l.n != 6 {
		t.Fatalf("%d, %v", l.n, err)
	}
	folds, err := parse(strings.NewReader("kim\nk\u00f6ln\n"))
	if err != nil {
		t.Fatal(err)
	}
	everybody, err := parse(strings.NewReader("*\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		list *list
		to   string
		sub  string
		want bool
	}{
		{l, "jane@example.edu", "", true},
		{l, "JANE@example.org", "", true}, // a local part is one in each domain
		{l, "john.doe@example.edu", "", true},
		{l, "john.doe@example.org", "", false},
		{l, "only@xn--bcher-kva.example", "", true},
		{l, `"odd one"@example.edu`, "", true},
		{l, "anybody@all.example", "", true},
		{l, "anybody@sub.all.example", "", false},
		{l, "nobody@example.edu", "", false},
		{l, "jane+news@example.edu", "", false},
		{l, "jane+news@example.edu", "+", true},
		{l, "jane+a+b@example.edu", "+", true},
		{l, "+jane@example.edu", "+", false},
		{l, "jane-news@example.edu", "+", false},
		{l, "x+y@example.edu", "+", true},
		{l, "x+z@example.edu", "+", false},
		{l, `"john.doe@example.edu"@example.org`, "", false},
		{folds, "KIM@example.edu", "", true},
		{folds, "\u212aim@example.edu", "", false}, // the Kelvin sign
		{folds, "k\u0130m@example.edu", "", false}, // a dotted capital I
		{folds, "K\u00d6ln@example.edu", "", true},
		{everybody, "anybody@example.edu", "", true},
	} {
		a := address(t, tc.to)
		if got := tc.list.has(a.Local, names.Fold(a.Domain), tc.sub); got != tc.want {
			t.Errorf("%s (%q): %v", tc.to, tc.sub, got)
		}
	}
}

// endless gives the same octet for ever, and counts how much was read.
type endless struct {
	octet byte
	read  int
}

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = e.octet
	}
	e.read += len(b)
	return len(b), nil
}

func TestWhatIsNoList(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "no recipient",
		"# nothing\n\n":              "no recipient",
		"jane\nno address@\n":        "line 2",
		"jane\n@\n":                  "line 2",
		"jane\n\x00\x01\n":           "line 2",
		"jane\n\xff\xfe\n":           "line 2",
		"\x7fELF\x02\x01\x01\n":      "line 1",
		"jane\n" + "x y z\n":         "line 2",
		"<jane@example.edu>\n":       "line 1",
		strings.Repeat("a", 100_000): "longer than",
	} {
		if _, err := parse(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	for _, octet := range []byte{'a', 0, '#', ' '} {
		in := &endless{octet: octet}
		if _, err := parse(in); err == nil || in.read > 4*maxLine {
			t.Errorf("%q for ever: %v after %d octets", octet, err, in.read)
		}
	}
}

// heard is a Log that remembers.
type heard struct{ errors, infos []string }

func (h *heard) Error(msg string, args ...any) { h.errors = append(h.errors, msg+fmt.Sprint(args...)) }
func (h *heard) Info(msg string, args ...any)  { h.infos = append(h.infos, msg+fmt.Sprint(args...)) }

// A list is taken over when its file has changed and stays so, and no damage of
// the file makes mail bounce or everything pass.
func TestTheFileChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.txt")
	log := &heard{}
	b := New(Options{Log: log})
	b.Configure([]Domain{{Name: "Example.edu", Mode: Listed, List: path}, {Name: "open.example"}})
	check := func(to string, code int) {
		t.Helper()
		reply, unknown := b.Check(t.Context(), address(t, to))
		got := 0
		if reply != nil {
			got = reply.Code
		}
		if got != code || unknown != (code == 550) {
			t.Errorf("%s: %v, want %d", to, reply, code)
		}
	}
	now := time.Now()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second) // whatever the file system's clock counts by
		if err := os.Chtimes(path, now, now); err != nil {
			t.Fatal(err)
		}
	}
	check("jane@example.edu", 451)
	check("postmaster@example.edu", 0)
	check("any@open.example", 0)
	check("any@elsewhere.example", 0)
	if len(log.errors) != 1 || len(b.Problems()) != 1 {
		t.Errorf("told: %q; problems: %q", log.errors, b.Problems())
	}
	b.look()
	b.look()
	if len(log.errors) != 1 {
		t.Errorf("told again and again: %q", log.errors)
	}
	write("jane\n")
	b.look()
	check("jane@example.edu", 451) // whoever writes it may go on
	b.look()
	check("jane@example.edu", 0)
	check("Jane@EXAMPLE.edu", 0)
	check("john@example.edu", 550)
	if p := b.Problems(); len(p) != 0 {
		t.Errorf("problems: %q", p)
	}
	for _, damage := range []func(){
		func() { write("") }, func() { write("jane\n\x00\x00\n") }, func() { _ = os.Remove(path) }, func() { _ = os.Mkdir(path, 0o700) },
		func() { _ = os.Remove(path); _ = syscall.Mkfifo(path, 0o600) },
	} {
		damage()
		b.look()
		b.look()
		b.Configure([]Domain{{Name: "example.edu", Mode: Listed, List: path}})
		check("jane@example.edu", 0)
		check("john@example.edu", 550)
		if p := b.Problems(); len(p) != 1 || !strings.Contains(p[0], "an older one is in force") {
			t.Errorf("problems: %q", p)
		}
	}
	_ = os.Remove(path)
	write("john\n")
	b.Configure([]Domain{{Name: "example.edu", Mode: Listed, List: path}}) // at once
	check("jane@example.edu", 550)
	check("john@example.edu", 0)
	b.Configure(nil)
	check("jane@example.edu", 0)
	if len(b.files) != 0 {
		t.Error("a file that nobody names is kept")
	}
}

func TestRunLooks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.txt")
	b := New(Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Poll: time.Millisecond})
	b.Configure([]Domain{{Name: "example.edu", Mode: Listed, List: path}})
	go b.Run(t.Context())
	if err := os.WriteFile(path, []byte("jane\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tick, limit := time.NewTicker(time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for {
		if reply, _ := b.Check(t.Context(), address(t, "jane@example.edu")); reply == nil {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("the file is not read")
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("jane\n# x\njohn@example.edu\n@all.example\n*\n\"a b\"\n", "jane", "example.edu", "+")
	f.Fuzz(func(t *testing.T, text, local, domain, sub string) {
		l, err := parse(strings.NewReader(text))
		if err != nil {
			return
		}
		if len(l.names)+len(l.all) > l.n {
			t.Error("more recipients than lines")
		}
		l.has(local, domain, sub)
	})
}

func BenchmarkCheck(b *testing.B) {
	var text strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&text, "user%d\n", i)
	}
	path := filepath.Join(b.TempDir(), "users.txt")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	book := New(Options{Log: &heard{}})
	book.Configure([]Domain{{Name: "example.edu", Mode: Listed, List: path}})
	to := mail.Address{Local: "user777", Domain: "example.edu"}
	b.ReportAllocs()
	for b.Loop() {
		if reply, _ := book.Check(b.Context(), to); reply != nil {
			b.Fatal(reply)
		}
	}
}
