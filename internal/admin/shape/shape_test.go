package shape

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/picks"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func to(domain string, age time.Duration) *picks.Entry {
	return &picks.Entry{To: mail.Address{Local: "x", Domain: domain}, Arrived: now.Add(-age), State: mail.StateDeferred}
}

func counted(m *Matrix, entries ...*picks.Entry) *Matrix {
	for _, e := range entries {
		_ = m.Add(e) // never fails
	}
	return m
}

func TestBuckets(t *testing.T) {
	if want := []int64{300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 76800}; !slices.Equal(bucketSeconds(), want) {
		t.Fatalf("the bounds are %v, want %v", bucketSeconds(), want)
	}
	for i, s := range bucketSeconds() {
		bound := time.Duration(s) * time.Second
		if got := bucket(bound - 1); got != i {
			t.Errorf("just below %v is count %d, want %d", bound, got, i)
		}
		if got := bucket(bound); got != i+1 {
			t.Errorf("%v is count %d, want %d", bound, got, i+1)
		}
	}
	for _, age := range []time.Duration{0, -1, math.MinInt64} {
		if got := bucket(age); got != 0 {
			t.Errorf("an age of %v is count %d", age, got)
		}
	}
	if got := bucket(math.MaxInt64); got != bounds {
		t.Errorf("the greatest age is count %d", got)
	}
}

func TestMatrix(t *testing.T) {
	entries := []*picks.Entry{
		to("b.example", 0), to("a.example", 6*time.Minute), to("A.Example", 30*24*time.Hour), to("MÜNCHEN.example", time.Hour), to("", 0), to("b\xff.example", 0),
	}
	got := counted(NewMatrix(adminv1.ShapeBy_SHAPE_BY_DOMAIN, now), entries...).Response(1)
	want := &adminv1.ShapeResponse{
		BucketSeconds: bucketSeconds(),
		Total:         &adminv1.ShapeRow{Total: 6, Counts: []int64{3, 1, 0, 0, 1, 0, 0, 0, 0, 1}},
		Rows:          []*adminv1.ShapeRow{{Name: "a.example", Total: 2, Counts: []int64{0, 1, 0, 0, 0, 0, 0, 0, 0, 1}}},
		Other:         &adminv1.ShapeRow{Total: 4, Counts: []int64{3, 0, 0, 0, 1, 0, 0, 0, 0, 0}},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	all := counted(NewMatrix(adminv1.ShapeBy_SHAPE_BY_UNSPECIFIED, now), entries...).Response(0)
	var names []string
	for _, r := range all.GetRows() {
		names = append(names, r.GetName())
	}
	if want := []string{"a.example", "", "b.example", "b\ufffd.example", "münchen.example"}; !slices.Equal(names, want) {
		t.Errorf("rows %q, want %q", names, want)
	}
	e := to("a.example", 0)
	e.From = mail.Address{Local: "s", Domain: "Sender.example"}
	if got := counted(NewMatrix(adminv1.ShapeBy_SHAPE_BY_SENDER, now), e, to("a.example", 0)).Response(0); len(got.GetRows()) != 2 || got.GetRows()[1].GetName() != "sender.example" {
		t.Errorf("by sender: %v", got)
	}
}

func TestMergedMatrix(t *testing.T) {
	a := counted(NewMatrix(0, now), to("a.example", 0), to("b.example", 0))
	b := counted(NewMatrix(0, now), to("b.example", time.Hour), to("c.example", 0))
	c := counted(NewMatrix(0, now), to("a.example", 0), to("b.example", 0), to("b.example", time.Hour), to("c.example", 0))
	if err := a.Merge(b.Response(0)); err != nil {
		t.Fatal(err)
	}
	if got, want := a.Response(2), c.Response(2); !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	before := a.Response(0)
	for _, bad := range []*adminv1.ShapeResponse{
		nil, {}, {BucketSeconds: bucketSeconds()}, {BucketSeconds: bucketSeconds(), Total: newRow(""), Rows: []*adminv1.ShapeRow{{Counts: []int64{1}}}},
		{BucketSeconds: []int64{1}, Total: newRow("")},
	} {
		if err := a.Merge(bad); err == nil {
			t.Errorf("%v is added", bad)
		}
	}
	if !proto.Equal(a.Response(0), before) {
		t.Error("what was refused is counted")
	}
}

// With more names than can be told apart the frequent ones stay, the totals
// are right and the answer says so.
func TestMoreDomainsThanThereIsRoomFor(t *testing.T) {
	m := NewMatrix(0, now)
	const names = 5 * MaxDomains
	for i := range names {
		counted(m, to(fmt.Sprintf("d%d.example", i), 0), to("big.example", 0))
	}
	if len(m.rows.rows) > slack*MaxDomains {
		t.Errorf("%d rows are kept", len(m.rows.rows))
	}
	r := m.Response(0)
	if !r.GetCut() || len(r.GetRows()) != MaxDomains || r.GetTotal().GetTotal() != 2*names || r.GetRows()[0].GetName() != "big.example" || r.GetRows()[0].GetTotal() != names {
		t.Errorf("cut %v, %d rows, the first %v, total %v", r.GetCut(), len(r.GetRows()), r.GetRows()[0], r.GetTotal())
	}
	if got := r.GetOther().GetTotal(); got != names-(MaxDomains-1) {
		t.Errorf("%d others", got)
	}
	if size := proto.Size(r); size > 3<<20 {
		t.Errorf("the answer has %d octets", size)
	}
	whole := NewMatrix(0, now)
	if err := whole.Merge(r); err != nil || !whole.Response(1).GetCut() {
		t.Errorf("the sum does not say that a part of it was cut (%v)", err)
	}
}

func heard(domain string, age time.Duration, reply *mail.Reply) *picks.Entry {
	e := to(domain, age)
	e.LastReply = *reply
	return e
}

func reasons(all bool, entries ...*picks.Entry) *Reasons {
	s := NewReasons(0, all)
	for _, e := range entries {
		_ = s.Add(e) // never fails
	}
	return s
}

func TestReasons(t *testing.T) {
	due, probed := to("d.example", 0), heard("d.example", 0, mail.NewReply(451, "4.4.1", "connect to mx.d.example[192.0.2.1]:25: connection refused"))
	due.State, probed.State, probed.Next = mail.StateActive, mail.StateActive, now
	entries := []*picks.Entry{
		due, probed,
		heard("a.example", time.Hour, mail.NewReply(450, "4.7.1", "<a@a.example>: Greylisted\nfor 300 s")),
		heard("A.example", 2*time.Hour, mail.NewReply(451, "4.7.1", "<b@a.example>: Greylisted for 299 s")),
		heard("b.example", time.Minute, mail.NewReply(450, "4.7.1", "<c@b.example>: Greylisted for 1 s")),
		heard("b.example", 0, mail.NewReply(421, "", "")), to("e.example", 0),
	}
	r := reasons(false, entries...).Response(0, false)
	if r.GetRecipients() != 6 || r.GetOther() != 0 || r.GetCut() || len(r.GetReasons()) != 4 {
		t.Fatalf("reasons %v", r)
	}
	first := r.GetReasons()[0]
	if first.GetClass() != "greylisted" || first.GetReason() != "4.7.1 <addr>: Greylisted for # s" || first.GetRecipients() != 3 || first.GetDomains() != 2 ||
		first.GetSample() != "450 4.7.1 <a@a.example>: Greylisted for 300 s" || !first.GetOldest().AsTime().Equal(now.Add(-2*time.Hour)) {
		t.Errorf("the first is %v", first)
	}
	var names []string
	for _, one := range r.GetReasons() {
		names = append(names, one.GetClass()+": "+one.GetReason())
	}
	if want := []string{"greylisted: 4.7.1 <addr>: Greylisted for # s", "none: ", "network: 4.4.1 connect to <host>[<ip>]:#: connection refused", "system: 421"}; !slices.Equal(names, want) {
		t.Errorf("reasons %q, want %q", names, want)
	}
	if r := reasons(true, entries...).Response(1, false); r.GetRecipients() != 7 || r.GetOther() != 4 {
		t.Errorf("of all: %v", r)
	}
}

func TestMergedReasons(t *testing.T) {
	var nodes [3]*Reasons
	for i := range nodes {
		nodes[i] = NewReasons(0, false)
	}
	for i := range 3000 { // 100 domains, each at all nodes
		_ = nodes[i%3].Add(heard(fmt.Sprintf("d%d.example", i%100), time.Duration(i)*time.Second, mail.NewReply(450, "4.2.2", fmt.Sprintf("mailbox %d is full", i))))
	}
	sum := nodes[0]
	for _, n := range nodes[1:] {
		if err := sum.Merge(n.Response(0, true)); err != nil {
			t.Fatal(err)
		}
	}
	r := sum.Response(0, false)
	if one := r.GetReasons()[0]; len(r.GetReasons()) != 1 || r.GetRecipients() != 3000 || one.GetRecipients() != 3000 || one.GetDomains() != 100 ||
		one.GetClass() != "mailbox-full" || !one.GetOldest().AsTime().Equal(now.Add(-2999*time.Second)) || one.GetSample() != "450 4.2.2 mailbox 0 is full" {
		t.Errorf("the sum is %v", r)
	}
}

// What a node sends is bounded, whatever it is told.
func TestManyReasons(t *testing.T) {
	s := NewReasons(0, false)
	long := strings.Repeat("wörter ", 1000)
	for i := range 5 * MaxReasons {
		word := strings.NewReplacer("0", "a", "1", "e", "2", "i", "3", "o", "4", "u", "5", "k", "6", "l", "7", "m", "8", "n", "9", "p").Replace(fmt.Sprint(i))
		for d := range 3 {
			_ = s.Add(heard(fmt.Sprint(i, d), 0, mail.NewReply(450, "4.7.1", word+" "+long)))
		}
	}
	r := s.Response(0, true)
	if !r.GetCut() || len(r.GetReasons()) != MaxReasons || r.GetRecipients() != 15*MaxReasons || r.GetOther() != 12*MaxReasons {
		t.Errorf("cut %v, %d reasons, %d recipients, %d others", r.GetCut(), len(r.GetReasons()), r.GetRecipients(), r.GetOther())
	}
	if most := MaxReasons * (maxNormal + maxSample + 8*sketch + 64); most > 3<<20 || proto.Size(r) > most {
		t.Errorf("%d octets, %d may be", proto.Size(r), most)
	}
}

func TestReasonsByClassAndDomain(t *testing.T) {
	entries := []*picks.Entry{
		heard("a.example", 0, mail.NewReply(450, "4.7.1", "Greylisted")), heard("A.example", 0, mail.NewReply(451, "4.7.1", "try again: graylisted")),
		heard("b.example", 0, mail.NewReply(450, "4.7.1", "Greylisted")), heard("b.example", 0, mail.NewReply(452, "4.2.2", "over quota")), to("c.example", 0),
	}
	for i, lane := range []string{"mx:a.example", "mx:a.example", "mx:b.example;tls=require", "mx:b.example;tls=require", ""} {
		entries[i].Lane = lane
	}
	sites := map[string]string{"mx:a.example": "big.example", "mx:b.example;tls=require": "Big.example", "": "c.example"}
	for by, want := range map[adminv1.ReasonsBy][]string{
		adminv1.ReasonsBy_REASONS_BY_SITE:   {"greylisted big.example 6", "mailbox-full big.example 2", "none c.example 2"},
		adminv1.ReasonsBy_REASONS_BY_CLASS:  {"greylisted  6", "mailbox-full  2", "none  2"},
		adminv1.ReasonsBy_REASONS_BY_DOMAIN: {"greylisted a.example 4", "greylisted b.example 2", "mailbox-full b.example 2", "none c.example 2"},
	} {
		sum, other := NewReasons(by, false), NewReasons(by, false)
		sum.Site = func(lane string) string { return sites[lane] }
		other.Site = sum.Site
		for _, e := range entries {
			_, _ = sum.Add(e), other.Add(e) // never fail
		}
		if err := sum.Merge(other.Response(0, true)); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range sum.Response(0, false).GetReasons() {
			got = append(got, fmt.Sprintf("%s %s %d", r.GetClass(), r.GetReason(), r.GetRecipients()))
		}
		if !slices.Equal(got, want) {
			t.Errorf("by %v: %q, want %q", by, got, want)
		}
		old := reasons(false, entries...).Response(0, true)
		old.By = 0
		if sum.Merge(old) == nil {
			t.Errorf("by %v: what a node of an earlier version counted was added", by)
		}
	}
}

func TestDistinct(t *testing.T) {
	for _, n := range []int{0, 1, 255, 1000, 100_000} {
		var a, b, both distinct
		for i := range n {
			h := hash(fmt.Appendf(nil, "domain%d.example", i))
			half := &a
			if i%2 == 0 {
				half = &b
			}
			half.add(h)
			half.add(h)
		}
		for _, h := range append(slices.Clone(a.least), b.least...) {
			both.add(h)
		}
		got, slip := float64(both.count()), 0.0
		if n >= sketch {
			slip = 0.2 * float64(n) // three standard deviations
		}
		if math.Abs(got-float64(n)) > slip {
			t.Errorf("%d names are counted as %v", n, got)
		}
	}
	// Nodes of other versions count with these hashes, too.
	if got := hash([]byte("example.org")); got != 0xcd3b846cb9256ccf {
		t.Errorf("the hash of example.org is %#x", got)
	}
}

// queue is 200,000 recipients, in which every reply is another one.
func queue() []picks.Entry {
	out := make([]picks.Entry, 200_000)
	for i := range out {
		out[i] = *heard(fmt.Sprintf("Domain%d.example", i*i%5000), time.Duration(i)*time.Second, mail.NewReply(450, "4.7.1",
			fmt.Sprintf("<user%d@domain%d.example>: Recipient address rejected: Greylisted, see http://example.org/%x.html (id %X)", i, i%5000, i, i*7919)))
	}
	return out
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkShape counts them, without what it takes to read them.
func BenchmarkShape(b *testing.B) {
	entries := queue()
	for name, counter := range map[string]func() func(*picks.Entry) error{
		"matrix":  func() func(*picks.Entry) error { return NewMatrix(0, now).Add },
		"reasons": func() func(*picks.Entry) error { return NewReasons(0, false).Add },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			began := cpu()
			for b.Loop() {
				add := counter()
				for i := range entries {
					_ = add(&entries[i]) // never fails
				}
			}
			b.ReportMetric(float64((cpu()-began).Nanoseconds())/float64(b.N)/float64(len(entries)), "cpu-ns/recipient")
		})
	}
}

// Counting one more recipient of a kind that is known takes no memory.
func TestNoAllocationARecipient(t *testing.T) {
	e := heard("Domain.example", 0, mail.NewReply(450, "4.7.1", "<user@domain.example>: Greylisted for 5 s, see http://example.org/1 (id 1A2B)"))
	m, s := NewMatrix(0, now), NewReasons(0, false)
	if n := testing.AllocsPerRun(100, func() {
		_, _ = m.Add(e), s.Add(e) // never fail
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
