package mask

import (
	"regexp"
	"strings"
	"testing"
)

func TestText(t *testing.T) {
	m := New([]byte("k"))
	in := `from=<a.b+c@example.org> to="two words"@example.edu, jörg@münchen.example client=10.1.2.3 [IPv6:2001:db8::7]:25 mx.example[203.0.113.9]:25 127.0.0.1 ::1 12:30:45 v1.2.3.4x 1.2.3 root@[192.0.2.1]`
	got := m.Text(in)
	for _, gone := range []string{"a.b+c", "two words", "jörg", "10.1.2.3", "2001:db8", "203.0.113.9", "192.0.2.1", "root@"} {
		if strings.Contains(got, gone) {
			t.Errorf("%q is left in %s", gone, got)
		}
	}
	for _, kept := range []string{"@example.org>", "@münchen.example", "127.0.0.1", " ::1 ", "12:30:45", " 1.2.3 ", "]:25"} {
		if !strings.Contains(got, kept) {
			t.Errorf("%q is gone from %s", kept, got)
		}
	}
	if m.Text("A@b.test") != m.Text("a@b.test")[:len("user-00000000")]+"@b.test" || m.Text("x@b.test") == m.Text("y@b.test") || m.Text("x@b.test") == New([]byte("other")).Text("x@b.test") {
		t.Error("equal addresses must look equal, and others not")
	}
}

func TestSecrets(t *testing.T) {
	got := Secrets("auth: {user: u, password: hunter2}\npassword_file: /etc/pw\ntoken=\"a b\" x\napi-key: 'k'\n")
	want := "auth: {user: u, password: (secret)}\npassword_file: /etc/pw\ntoken=(secret) x\napi-key: (secret)\n"
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// FuzzText: no address of the plain form comes through.
func FuzzText(f *testing.F) {
	f.Add("<a@b.test> 10.0.0.1")
	plain := regexp.MustCompile(`[a-z]+\.[a-z]+@[a-z]+\.test`)
	f.Fuzz(func(t *testing.T, s string) {
		got := New([]byte("k")).Text("x " + s + " first.last@corp.test")
		if a := plain.FindString(got); strings.HasPrefix(a, "first.last@") {
			t.Errorf("%q gives %q", s, got)
		}
	})
}
