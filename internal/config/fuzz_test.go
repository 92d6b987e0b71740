package config

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/clrelay/clrelay/internal/config/limits"
	"github.com/clrelay/clrelay/internal/config/strict"
)

// FuzzConfig: no file makes the loader panic, and each error stands inside the
// file.
func FuzzConfig(f *testing.F) {
	for _, s := range []string{
		"", "node: mx1\nsmtp: [{listen: \":25\"}]\n", "node: a\nsmtp: [{listen: \":25\"}]\ncluster: {listen: \":1\", gossip: \"[::]:0\", join: [a, b:1], bootstrap_expect: 2, advertise: x}\n", Example("node.yaml"), Example("cluster.yaml"),
		"a: &a [*a]\nb: {<<: *a}", "routes: [{match: {}, action: {smarthost: [::1]}}]", "senders:\n- {name: x, networks: [2001:db8:: ]}",
		"? [a]\n: b", "receive: {max_size: 1\t}", "\uFEFFnode:\r\n  x", "---\n--- a", "queue: {retry: [1m,\n", "x: !!binary aaa=", "\"\\x", "%YAML 1.1\n---\n",
	} {
		f.Add(s)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		for _, load := range []func(*strict.File) error{
			func(f *strict.File) error { _, err := readNode(check{f, true}); return err },
			func(f *strict.File) error { _, err := readCluster(check{f, true}, nil); return err },
		} {
			s := strict.Parse("f", dir, []byte(text))
			isNode(s, "f")
			err := load(s)
			var errs Errors
			if err == nil {
				continue
			}
			if !errors.As(err, &errs) || len(errs) == 0 || !strings.HasPrefix(err.Error(), "f:") {
				t.Fatalf("%q: %T %v", text, err, err)
			}
			lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text), "\n")
			for _, e := range errs {
				if e.Line < 1 || e.Line > len(lines) || e.Col < 1 || e.Col > utf8.RuneCountInString(lines[e.Line-1])+1 {
					t.Fatalf("%q: %s stands outside of the file", text, e.Line1())
				}
			}
		}
	})
}

// FuzzValues: what a value prints as is read as the same value.
func FuzzValues(f *testing.F) {
	for _, s := range []string{"1h30m", "5d", "50MiB", "10MB", ":25", "[::1]:25", "10.0.0.0/8", "::ffff:1.2.3.4/120", "*.example.edu", "mail.example.edu:25", "[2001:db8::1]:465", "127.0.0.1", "a@b.example", "bücher.example", "mx1", "::1", "fe80::1%eth0", "60/s", "10MiB/h", "<>", "\"A B\"@B.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var (
			d, d2 Duration
			z, z2 Size
			l, l2 Listen
			n, n2 Network
			p, p2 Pattern
			a, a2 Address
			h, h2 Host
			s, s2 Server
			r, r2 limits.Rate
			o, o2 limits.Originator
		)
		again := func(name string, first error, parse func(string) error, printed func() string, same func() bool) {
			if first != nil {
				return
			}
			if err := parse(printed()); err != nil || !same() {
				t.Errorf("%s: %q prints as %q, which gives %v", name, text, printed(), err)
			}
		}
		again("duration", d.Parse(text), d2.Parse, func() string { return d.String() }, func() bool { return d == d2 })
		again("size", z.Parse(text), z2.Parse, func() string { return z.String() }, func() bool { return z == z2 })
		again("listen", l.Parse(text), l2.Parse, func() string { return l.String() }, func() bool { return l == l2 })
		again("network", n.Parse(text), n2.Parse, func() string { return n.String() }, func() bool { return n == n2 })
		again("pattern", p.Parse(text), p2.Parse, func() string { return string(p) }, func() bool { return p == p2 })
		again("address", a.Parse(text), a2.Parse, func() string { return string(a) }, func() bool { return a == a2 })
		again("host", h.Parse(text), h2.Parse, func() string {
			if h.Port == 0 {
				return strings.TrimSuffix(h.String(), ":0")
			}
			return h.String()
		}, func() bool { return h == h2 })
		again("server", s.Parse(text), s2.Parse, func() string { return s.String() }, func() bool { return s == s2 })
		again("rate", r.Parse(text), r2.Parse, func() string { return r.String() }, func() bool { return r.Rate == r2.Rate })
		again("originator", o.Parse(text), o2.Parse, func() string { return string(o) }, func() bool { return o == o2 })
		var m Mailbox
		_ = m.Parse(text) // it must not panic
		strict.Guess(text, []string{"node", "hostname"})
	})
}
