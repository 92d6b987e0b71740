package suppressed

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/proto/control"
)

func entryFor(address, scope string, reason control.SuppressReason) control.Suppression {
	return control.Suppression{SuppressKey: control.SuppressKey{Address: address, Scope: scope}, Reason: reason, Text: "t", CreatedMS: 1}
}

// A table does what a plain map would do, whatever order things come in, and
// one made of its pages is the same.
func TestLikeAMap(t *testing.T) {
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 1))
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			table, plain := New(), map[control.SuppressKey]control.Suppression{}
			names := 20 + r.IntN(4000)
			for now := int64(1); now < 400; now++ {
				var c control.SuppressOps
				c.AtMS = now - int64(r.IntN(3))
				var want []control.Code
				for k, e := range plain {
					if e.ExpiresMS != 0 && e.ExpiresMS <= c.AtMS {
						delete(plain, k)
					}
				}
				key := func() control.SuppressKey {
					return control.SuppressKey{Address: fmt.Sprintf("%x@example.org", r.IntN(names)), Scope: []string{"", "", "a", "@b", "c@d"}[r.IntN(5)]}
				}
				for range r.IntN(20) * r.IntN(2) {
					k := key()
					c.Remove = append(c.Remove, k)
					code := control.Unchanged
					if _, ok := plain[k]; ok {
						code = control.OK
					}
					delete(plain, k)
					want = append(want, code)
				}
				for range r.IntN(60) {
					e := control.Suppression{SuppressKey: key(), Reason: control.SuppressReason(r.IntN(6)), Text: fmt.Sprint(r.IntN(3)), CreatedMS: now}
					if r.IntN(2) == 0 {
						e.ExpiresMS = now + int64(r.IntN(60)) - 3
					}
					c.Add = append(c.Add, e)
					was, ok := plain[e.SuppressKey]
					code := control.OK
					switch {
					case e.Reason < control.SuppressHardBounce || e.Reason > control.SuppressImport || e.ExpiresMS < 0:
						code = control.Malformed
					case e.ExpiresMS != 0 && e.ExpiresMS <= c.AtMS, ok && e.Reason.Automatic() && !was.Reason.Automatic(),
						ok && was.Reason == e.Reason && was.Text == e.Text && was.ExpiresMS == e.ExpiresMS:
						code = control.Unchanged
					default:
						plain[e.SuppressKey] = e
					}
					want = append(want, code)
				}
				var got []control.Code
				for _, o := range table.Do(&c) {
					got = append(got, o.Code)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("%d: %d to remove, %d to add: %v, not %v", now, len(c.Remove), len(c.Add), got, want)
				}
				if now%20 == 0 {
					alike(t, table, plain)
				}
			}
		})
	}
}

func alike(t *testing.T, table *Table, plain map[control.SuppressKey]control.Suppression) {
	t.Helper()
	var all []control.Suppression
	octets := 0
	for _, e := range plain {
		all = append(all, e)
		octets += len(e.Address) + len(e.Scope) + len(e.Text)
	}
	slices.SortFunc(all, func(a, b control.Suppression) int { return a.Compare(b.SuppressKey) })
	again, ok := FromPages(table.Pages())
	if !ok {
		t.Fatal("its pages are none")
	}
	for _, table := range []*Table{table, again} {
		var got []control.Suppression
		for page := table.Page(nil, control.SuppressKey{}, 7); len(page) > 0; page = table.Page(page[:0], page[len(page)-1].SuppressKey, 7) {
			got = append(got, page...)
		}
		if !slices.Equal(got, all) || table.Len() != len(all) || table.Octets() != octets {
			t.Fatalf("%d entries of %d octets, not %d of %d", len(got), table.Octets(), len(all), octets)
		}
		for _, e := range all {
			if !slices.Contains(table.Get(e.Address), e) {
				t.Fatalf("%+v is not found", e)
			}
		}
	}
	if !reflect.DeepEqual(again.Pages(), table.Pages()) {
		t.Fatal("equal tables have other pages")
	}
}

// What was captured stays as it was, while the table changes.
func TestCapture(t *testing.T) {
	table, r := New(), rand.New(rand.NewPCG(5, 5))
	change := func(n int) {
		for range n {
			c := control.SuppressOps{AtMS: 1}
			for range 200 {
				k := control.SuppressKey{Address: fmt.Sprintf("%x@example.org", r.IntN(3000))}
				if r.IntN(2) == 0 {
					c.Remove = append(c.Remove, k)
				}
				c.Add = append(c.Add, control.Suppression{SuppressKey: k, Reason: control.SuppressOperator, Text: fmt.Sprint(r.IntN(9))})
			}
			table.Do(&c)
		}
	}
	type held struct {
		pages func() [][]byte
		want  [][]byte
	}
	var all []held
	for range 10 {
		change(5)
		all = append(all, held{table.Capture(), table.Pages()})
	}
	done := make(chan bool)
	go func() { // while it changes
		same := true
		for _, h := range all {
			same = same && reflect.DeepEqual(h.pages(), h.want)
		}
		done <- same
	}()
	change(50)
	if !<-done {
		t.Error("what was captured has changed")
	}
}

func TestWhoseMailIsMeant(t *testing.T) {
	table := New()
	codes := table.Do(&control.SuppressOps{Add: []control.Suppression{
		entryFor("all@example.org", "", control.SuppressHardBounce),
		entryFor("word@example.org", "", control.SuppressOperator),
		entryFor("one@example.org", "jane@example.edu", control.SuppressComplaint),
		entryFor("domain@example.org", "@example.edu", control.SuppressComplaint),
		entryFor("group@example.org", "campus", control.SuppressOperator),
		entryFor("two@example.org", "@example.edu", control.SuppressComplaint),
		entryFor("two@example.org", "lab", control.SuppressComplaint),
		entryFor("u@xn--bcher-kva.example", "", control.SuppressOperator),
		entryFor("jürgen@example.org", "", control.SuppressOperator),
		entryFor(`"a b"@example.org`, "", control.SuppressOperator),
	}})
	for i, c := range codes {
		if c.Code != control.OK {
			t.Fatalf("entry %d: %v", i, c.Code)
		}
	}
	for _, tc := range []struct {
		to, from, group string
		want            bool
	}{
		{"ALL@Example.Org", "x@y.example", "campus", true},
		{"all@example.org", "", "campus", true},
		{"all@example.org", "x@y.example", "", false}, // our own domain: not by an automatic entry
		{"word@example.org", "x@y.example", "", true},
		{"one@example.org", "Jane@EXAMPLE.edu", "campus", true},
		{"one@example.org", "john@example.edu", "campus", false},
		{"one@example.org", "", "campus", false},
		{"domain@example.org", "john@example.edu", "campus", true},
		{"domain@example.org", "john@sub.example.edu", "campus", false},
		{"domain@example.org", "john@notexample.edu", "campus", false},
		{"group@example.org", "john@example.com", "campus", true},
		{"group@example.org", "john@example.com", "lab", false},
		{"group@example.org", "john@example.com", "", false},
		{"two@example.org", "john@example.com", "lab", true},
		{"two@example.org", "john@example.edu", "campus", true},
		{"two@example.org", "john@example.com", "campus", false},
		{"u@bücher.example", "x@y.example", "campus", true},
		{"u@XN--bcher-KVA.example", "x@y.example", "campus", true},
		{"JÜRGEN@example.org", "x@y.example", "campus", true},
		{`"A b"@example.org`, "x@y.example", "campus", true},
		{"nobody@example.org", "x@y.example", "campus", false},
	} {
		to, from := mail.Address{}, mail.Address{}
		var err error
		if to, err = mail.ParseMailbox(tc.to, true); err != nil {
			t.Fatal(err)
		}
		if tc.from != "" {
			if from, err = mail.ParseMailbox(tc.from, true); err != nil {
				t.Fatal(err)
			}
		}
		if s, ok := table.Find(&Query{To: to, From: from, Group: tc.group}); ok != tc.want {
			t.Errorf("%s from %s (%s): %v %+v", tc.to, tc.from, tc.group, ok, s)
		}
	}
	if _, ok := table.Find(&Query{To: mail.Address{Local: "postmaster"}, Group: "campus"}); ok {
		t.Error("an address without a domain is found")
	}
}

func TestBounds(t *testing.T) {
	table := New()
	long := strings.Repeat("x", control.MaxSuppressText)
	for _, e := range []control.Suppression{
		{}, entryFor("nobody", "", 1), entryFor("a@b", "", 0), entryFor("a@b", "", 9), entryFor("a\n@b", "", 1), entryFor("a@b", "c\x00", 1),
		entryFor(strings.Repeat("x", 320)+"@b", "", 1), {SuppressKey: control.SuppressKey{Address: "a@b"}, Reason: 1, Text: long + "x"},
		{SuppressKey: control.SuppressKey{Address: "a@b"}, Reason: 1, Text: "\xff"}, {SuppressKey: control.SuppressKey{Address: "a@b"}, Reason: 1, ExpiresMS: -1},
	} {
		if out := table.Do(&control.SuppressOps{Add: []control.Suppression{e}}); out[0].Code != control.Malformed {
			t.Errorf("%+v: %v", e, out[0].Code)
		}
	}
	if e := (control.Suppression{SuppressKey: control.SuppressKey{Address: "a@b"}, Reason: 1, Text: "two\nlines" + long + "\xff"}).Cut(); !e.Valid() {
		t.Errorf("%+v is not valid when it is cut", e)
	}
	full := New()
	full.octets = control.MaxSuppressedOctets - 10
	if out := full.Do(&control.SuppressOps{Add: []control.Suppression{entryFor("a@b", "", 1), entryFor("ab@example.org", "", 1), entryFor("a@b", "", 3)}}); out[0].Code != control.OK || out[1].Code != control.LimitReached || out[2].Code != control.OK {
		t.Errorf("a table full of octets: %v", out)
	}
	full = New()
	full.n.Store(control.MaxSuppressed)
	if out := full.Do(&control.SuppressOps{Add: []control.Suppression{entryFor("a@b", "", 1)}}); out[0].Code != control.LimitReached {
		t.Errorf("a table full of entries: %v", out)
	}
}

// Entries that are replaced over and over leave nothing behind.
func TestTheHeapIsBounded(t *testing.T) {
	table := New()
	for i := range int64(20_000) {
		e := entryFor("a@b", "", control.SuppressOperator)
		e.ExpiresMS = 1<<40 + i
		table.Do(&control.SuppressOps{Add: []control.Suppression{e}})
	}
	if table.Len() != 1 || len(table.ends) > 2*maxRun {
		t.Errorf("%d entries, %d ends", table.Len(), len(table.ends))
	}
}

func TestFindAllocatesNothing(t *testing.T) {
	table := New()
	q := Query{To: mail.Address{Local: "Jane.Doe", Domain: "Example.org"}, From: mail.Address{Local: "john", Domain: "example.edu"}, Group: "campus"}
	look := func() {
		if n := testing.AllocsPerRun(100, func() { table.Find(&q) }); n != 0 {
			t.Errorf("%v allocations with %d entries", n, table.Len())
		}
	}
	look()
	table.Do(&control.SuppressOps{Add: []control.Suppression{entryFor("jane.doe@example.org", "a@b", 1), entryFor("jane.doe@example.org", "john@example.edu", 1)}})
	if _, ok := table.Find(&q); !ok {
		t.Fatal("it is not found")
	}
	look()
}

func FuzzPages(f *testing.F) {
	table := New()
	table.Do(&control.SuppressOps{Add: []control.Suppression{entryFor("a@b", "", 1), entryFor("c@d", "x", 2)}})
	f.Add(table.Pages()[0])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		table, ok := FromPages([][]byte{b})
		if !ok {
			return
		}
		again, ok := FromPages(table.Pages())
		if !ok || !bytes.Equal(bytes.Join(again.Pages(), nil), bytes.Join(table.Pages(), nil)) {
			t.Fatal("a table that was read cannot be read again")
		}
	})
}

func FuzzKey(f *testing.F) {
	f.Add("Jane@Example.ORG")
	f.Add(`".a"@x.org`)
	f.Add(`"a..b"@x.org`)
	f.Add(`"a.b."@x.org`)
	f.Add("a.b.c@x.org")
	f.Add("jürgen@bücher.example")
	f.Add("\u212aim@example.org")
	f.Add(`"a b"@[IPv6:::1]`)
	f.Fuzz(func(t *testing.T, s string) {
		key, err := ParseAddress(s)
		if err != nil {
			return
		}
		if a, err := mail.ParseMailbox(strings.TrimSpace(s), true); err == nil && !a.NeedsUTF8() && key != strings.ToLower(a.String()) {
			t.Fatalf("%q is %q", s, key)
		}
		if a, err := mail.ParseMailbox(strings.TrimSpace(s), true); err == nil && (mail.Address{Local: a.Local}).NeedsUTF8() && len(key) == len([]rune(key)) {
			t.Fatalf("%q is %q, which is another mailbox", s, key)
		}
		if again, err := ParseAddress(key); err != nil || again != key {
			t.Fatalf("%q is %q and then %q: %v", s, key, again, err)
		}
		if k := (control.SuppressKey{Address: key}); !k.Valid() {
			t.Fatalf("%q is no key", key)
		}
	})
}
