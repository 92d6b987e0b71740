package diff_test

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/internal/config"
	"github.com/clrelay/clrelay/internal/config/diff"
	"github.com/clrelay/clrelay/internal/config/strict"
)

func tree(t testing.TB, text string) *strict.Tree {
	t.Helper()
	out, err := config.ClusterTree("cluster.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func lines(list []diff.Difference) string {
	var b strings.Builder
	for _, d := range list {
		b.WriteString(d.String() + "\n")
	}
	return b.String()
}

func TestTrees(t *testing.T) {
	for name, c := range map[string]struct{ a, b, want string }{
		"nothing":            {"", "# a comment\n", ""},
		"order of keys":      {"queue: {expire: 5d, delay_warning: 4h}\ndns: {servers: [192.0.2.1]}", "dns:\n  servers: [\"192.0.2.1\"]\nqueue:\n  delay_warning: 4h # later\n  expire: 5d\n", ""},
		"the same meaning":   {"queue: {expire: 5d, retry: [60m]}\nreceive: {max_size: 1MiB}", "queue: {expire: 120h, retry: [1h]}\nreceive: {max_size: 1048576}", ""},
		"a value":            {"queue: {expire: 5d}", "queue: {expire: 4d}", "~ queue.expire: 5d -> 4d\n"},
		"a default":          {"", "queue: {expire: 5d}", "+ queue.expire: 5d\n"},
		"empty at the top":   {"senders:\nqueue:\n", "", ""},
		"by position":        {"dns: {servers: [192.0.2.1, 192.0.2.2]}", "dns: {servers: [192.0.2.2]}", "~ dns.servers[0]: 192.0.2.1 -> 192.0.2.2\n- dns.servers[1]: 192.0.2.2\n"},
		"an empty section":   {"routes: [{match: {}, action: {mx: true}}]", "routes: [{match: {domains: [a.example]}, action: {mx: true}}]", "+ routes[0].match.domains[0]: a.example\n"},
		"emptied":            {"routes: [{match: {}, action: {mx: true}}]", "", "- routes[0].action.mx: true\n- routes[0].match: {}\n"},
		"another kind":       {"queue: {expire: 5d}", "queue: 5d", "- queue.expire: 5d\n+ queue: 5d\n"},
		"of a later program": {"new: {key: 1}", "new: {key: 01}", "~ new.key: 1 -> 01\n"},
		"by name": {
			"senders: [{name: campus, networks: [10.0.0.0/8]}, {name: lab, networks: [192.0.2.0/24]}]",
			"senders:\n- {name: lab, networks: [192.0.2.0/25]}\n- {name: new, networks: [\"2001:db8::/32\"]}\n",
			"- senders[campus].name: campus\n- senders[campus].networks[0]: 10.0.0.0/8\n~ senders[lab].networks[0]: 192.0.2.0/24 -> 192.0.2.0/25\n" +
				"+ senders[new].name: new\n+ senders[new].networks[0]: 2001:db8::/32\n",
		},
		"order of names": {"domains: [{name: a.example}, {name: B.example}]", "domains: [{name: b.example}, {name: a.example}]", "~ domains: [a.example, b.example] -> [b.example, a.example]\n"},
		"a name twice":   {"senders: [{name: a}, {name: a}]", "senders: [{name: a}]", "- senders[1].name: a\n"},
	} {
		if got := lines(diff.Trees(tree(t, c.a), tree(t, c.b))); got != c.want {
			t.Errorf("%s:\n%swant\n%s", name, got, c.want)
		}
	}
}

// What is marked as secret is never shown, whether it comes, goes or changes.
func TestSecrets(t *testing.T) {
	type login struct {
		User     string `key:"user"`
		Password string `key:"password" secret:"yes"`
	}
	type file struct {
		Login login `key:"login"`
	}
	doc := strict.Doc{Name: "x.yaml", Type: reflect.TypeFor[file]()}
	read := func(text string) *strict.Tree {
		out, err := strict.Parse("x.yaml", "", []byte(text)).Tree(doc)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	one, two, none := read("login: {user: a, password: one}"), read("login: {user: a, password: two}"), read("login: {user: a}")
	got := lines(slices.Concat(diff.Trees(one, two), diff.Trees(none, one), diff.Trees(one, none), diff.Trees(one, one)))
	if want := "~ login.password: (secret) -> (secret)\n+ login.password: (secret)\n- login.password: (secret)\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

const example = `senders: [{name: campus, networks: [10.0.0.0/8, "2001:db8::/32"]}, {name: lab, networks: [192.0.2.0/24]}]
domains: [{name: example.edu, recipients: any}]
routes:
  - {match: {domains: [example.edu]}, action: {smarthost: ["mail.example.edu:25"], tls: verify}}
  - {match: {}, action: {mx: true}}
queue: {retry: [1m, 5m], expire: 5d}
`

// Any two texts: equal ones do not differ, and what differs does so in both
// directions, with the old and the new value changed over.
func FuzzTrees(f *testing.F) {
	f.Add(example, "queue: {expire: 4d}\n")
	f.Add("a: [{name: x}, {name: y}]", "a: [{name: y}, {name: x}, {name: z}]")
	f.Add("a: {}", "a: []")
	f.Add("a: [1, [2]]", "a: 1")
	f.Fuzz(func(t *testing.T, one, two string) {
		a, err := config.ClusterTree("a", []byte(one))
		if err != nil {
			t.Skip()
		}
		b, err := config.ClusterTree("b", []byte(two))
		if err != nil {
			t.Skip()
		}
		if d := diff.Trees(a, a); len(d) != 0 {
			t.Errorf("it differs from itself: %s", lines(d))
		}
		there, back := diff.Trees(a, b), diff.Trees(b, a)
		turned := map[diff.Op]diff.Op{diff.Add: diff.Remove, diff.Remove: diff.Add, diff.Change: diff.Change}
		var want, got []string
		for _, d := range there {
			want = append(want, (&diff.Difference{Op: turned[d.Op], Path: d.Path, Old: d.New, New: d.Old}).String())
		}
		for _, d := range back {
			got = append(got, d.String())
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			t.Errorf("there and back:\n%s\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
		}
	})
}

// A text with its keys in any order is the same.
func TestOrderOfKeys(t *testing.T) {
	a := tree(t, example)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		var b strings.Builder
		write(&b, a, rnd)
		if d := diff.Trees(a, tree(t, b.String())); len(d) != 0 {
			t.Fatalf("%s\n%s", b.String(), lines(d))
		}
	}
}

// write writes a tree with its keys in any order.
func write(b *strings.Builder, t *strict.Tree, rnd *rand.Rand) {
	switch {
	case t.Section != nil:
		var keys []string
		for k := range t.Section {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		rnd.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		b.WriteString("{")
		for _, k := range keys {
			b.WriteString(k + ": ")
			write(b, t.Section[k], rnd)
			b.WriteString(",\n ")
		}
		b.WriteString("}")
	case t.IsList:
		b.WriteString("[")
		for _, e := range t.List {
			write(b, e, rnd)
			b.WriteString(", ")
		}
		b.WriteString("]")
	default:
		b.WriteString("\"" + t.Word + "\"")
	}
}
