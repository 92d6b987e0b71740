package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// world is a machine whose every part can be wrong.
type world struct {
	free, size uint64
	spaceErr   error
	syncs      []time.Duration
	syncErr    error
	ntp, tells bool
	exists     bool
	dnsErr     error
	dnsTook    time.Duration
	now        time.Time
	later      atomic.Int64 // the checks run at the same time
	greetings  map[string]string
	closed     map[string]bool
	names      map[netip.Addr][]string
	addrs      map[string]netip.Addr
}

func (w *world) Names(_ context.Context, a netip.Addr) ([]string, error) { return w.names[a], w.dnsErr }

func (w *world) Addrs(_ context.Context, name string) ([]netip.Addr, error) {
	if a, ok := w.addrs[name]; ok {
		return []netip.Addr{a}, w.dnsErr
	}
	return nil, w.dnsErr
}

func (w *world) Space() (uint64, uint64, error)                     { return w.free, w.size, w.spaceErr }
func (w *world) Synchronised() (bool, bool)                         { return w.ntp, w.tells }
func (w *world) Sync(context.Context, int) ([]time.Duration, error) { return w.syncs, w.syncErr }

func (w *world) Exists(_ context.Context, name string) (bool, error) {
	if !strings.HasSuffix(name, ".example.com") {
		return false, fmt.Errorf("asked for %s", name)
	}
	w.later.Add(int64(w.dnsTook))
	return w.exists, w.dnsErr
}

func (w *world) Dial(_ context.Context, addr string) error {
	if w.closed[addr] {
		return errors.New("connection refused")
	}
	return nil
}

func (w *world) Greeting(ctx context.Context, addr string, _ bool) (string, error) {
	return w.greetings[addr], w.Dial(ctx, addr)
}

func fine() (*world, *Facts) {
	w := &world{
		free: 80 << 30, size: 100 << 30, syncs: []time.Duration{time.Millisecond, 2 * time.Millisecond}, ntp: true, tells: true,
		dnsTook: time.Millisecond, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		greetings: map[string]string{"127.0.0.1:25": "220 mx1", "10.0.0.2:25": "220 mx2"}, closed: map[string]bool{},
	}
	return w, &Facts{
		Reserve: 1 << 30, Files: Limit{100, 20000}, FilesNeeded: 6200, FsyncCount: 1000, FsyncP50: time.Millisecond, FsyncP99: 2 * time.Millisecond,
		Listeners: []Listener{{Addr: "127.0.0.1:25"}}, Peers: []Peer{{"mx2", "10.0.0.2:25"}}, Smarthosts: []string{"mail:25"},
		Certs:  []Cert{{What: "node", File: "node.crt", NotBefore: w.now.Add(-time.Hour), NotAfter: w.now.Add(90 * 24 * time.Hour), Renew: "renew it"}},
		Kernel: []Setting{{"net.core.somaxconn", 4096, 1024, "why"}},
	}
}

func (w *world) examine(f *Facts, trend *Trend) []Finding {
	n := Node{Disk: w, Clock: w, DNS: w, Net: w, Trend: trend, Now: func() time.Time { return w.now.Add(time.Duration(w.later.Load())) }, Facts: func() Facts { return *f }}
	return n.Examine(context.Background())
}

func TestAHealthyNode(t *testing.T) {
	w, f := fine()
	seen := map[string]bool{}
	for _, got := range w.examine(f, &Trend{}) {
		seen[got.Check] = true
		if got.Level != OK || got.Fix != "" {
			t.Errorf("%+v", got)
		}
	}
	for _, check := range []string{"service", "disk", "fsync", "files", "memory", "ntp", "dns", "listener", "peers", "smarthosts", "certificate", "kernel", "config"} {
		if !seen[check] {
			t.Errorf("%s was not looked at", check)
		}
	}
}

// Each thing that is wrong is found, as bad as it is, and nothing else is.
func TestOneThingWrong(t *testing.T) {
	day := 24 * time.Hour
	filling := func(perMinute uint64) *Trend {
		tr := &Trend{}
		for i := range 60 {
			tr.Add(time.Unix(int64(i)*60, 0), 90<<30-uint64(i)*perMinute)
		}
		return tr
	}
	for _, c := range []struct {
		name  string
		wrong func(w *world, f *Facts)
		trend *Trend
		level Level
		check string
		text  string
	}{
		{name: "not ready", wrong: func(_ *world, f *Facts) { f.NotReady = "the disk is full" }, level: Fail, check: "service", text: "the disk is full"},
		{name: "draining", wrong: func(_ *world, f *Facts) { f.NotReady, f.Draining = "draining", true }, level: Warn, check: "service", text: "drained"},
		{name: "books", wrong: func(_ *world, f *Facts) { f.Imbalance = -3 }, level: Fail, check: "ledger", text: "-3"},
		{name: "lost lines", wrong: func(_ *world, f *Facts) { f.LogLost = 7 }, level: Warn, check: "log", text: "7 lines"},
		{name: "disk nearly full", wrong: func(w *world, _ *Facts) { w.free = 10 << 30 }, level: Warn, check: "disk", text: "10 GiB of 100 GiB"},
		{name: "disk full", wrong: func(w *world, _ *Facts) { w.free = 2 << 30 }, level: Fail, check: "disk", text: "2 %"},
		{name: "below the reserve", wrong: func(w *world, f *Facts) { f.Reserve = 81 << 30 }, level: Fail, check: "disk", text: "free"},
		{name: "filling up", trend: filling(100 << 20), level: Warn, check: "disk", text: "full in 13.5 hours"},
		{name: "no disk", wrong: func(w *world, _ *Facts) { w.spaceErr = errors.New("EIO") }, level: Unknown, check: "disk", text: "EIO"},
		{name: "read-only", wrong: func(w *world, _ *Facts) { w.syncErr = errors.New("read-only file system") }, level: Fail, check: "fsync", text: "read-only"},
		{name: "slow disk", wrong: func(w *world, _ *Facts) { w.syncs = []time.Duration{40 * time.Millisecond} }, level: Warn, check: "fsync", text: "40ms"},
		{name: "very slow disk", wrong: func(w *world, _ *Facts) { w.syncs = []time.Duration{400 * time.Millisecond} }, level: Fail, check: "fsync", text: "400ms"},
		{name: "slow at times", wrong: func(_ *world, f *Facts) { f.FsyncP99 = time.Second }, level: Warn, check: "fsync", text: "p99 1s"},
		{name: "files in use", wrong: func(_ *world, f *Facts) { f.Files.Used = 19000 }, level: Fail, check: "files", text: "19000"},
		{name: "few files", wrong: func(_ *world, f *Facts) { f.Files.Max = 1024 }, level: Warn, check: "files", text: "6200"},
		{name: "memory", wrong: func(_ *world, f *Facts) { f.Memory = Limit{90 << 20, 100 << 20} }, level: Warn, check: "memory", text: "90 MiB"},
		{name: "clock", wrong: func(w *world, _ *Facts) { w.ntp = false }, level: Warn, check: "ntp", text: "not synchronised"},
		{name: "clock not known", wrong: func(w *world, _ *Facts) { w.tells = false }, level: Unknown, check: "ntp", text: "does not tell"},
		{name: "no DNS", wrong: func(w *world, _ *Facts) { w.dnsErr = errors.New("timed out") }, level: Fail, check: "dns", text: "timed out"},
		{name: "NXDOMAIN rewritten", wrong: func(w *world, _ *Facts) { w.exists = true }, level: Fail, check: "dns", text: "makes up"},
		{name: "slow DNS", wrong: func(w *world, _ *Facts) { w.dnsTook = 2 * time.Second }, level: Warn, check: "dns", text: "2s"},
		{name: "closed port", wrong: func(w *world, _ *Facts) { w.closed["127.0.0.1:25"] = true }, level: Fail, check: "listener", text: "refused"},
		{name: "another program", wrong: func(w *world, _ *Facts) { w.greetings["127.0.0.1:25"] = "SSH-2.0" }, level: Fail, check: "listener", text: "SSH"},
		{name: "busy peer", wrong: func(w *world, _ *Facts) { w.greetings["10.0.0.2:25"] = "421 4.3.2 no" }, level: Warn, check: "peers", text: "mx2"},
		{name: "behind a proxy", wrong: func(_ *world, f *Facts) { f.Listeners[0].Proxy = true }, level: Unknown, check: "listener", text: "proxy"},
		{name: "smarthost", wrong: func(w *world, _ *Facts) { w.closed["mail:25"] = true }, level: Fail, check: "smarthosts", text: "mail:25"},
		{name: "certificate soon", wrong: func(w *world, f *Facts) { f.Certs[0].NotAfter = w.now.Add(10*day + time.Hour) }, level: Warn, check: "certificate", text: "10 days"},
		{name: "certificate at once", wrong: func(w *world, f *Facts) { f.Certs[0].NotAfter = w.now.Add(2*day - time.Hour) }, level: Fail, check: "certificate", text: "47.0 hours"},
		{name: "certificate over", wrong: func(w *world, f *Facts) { f.Certs[0].NotAfter = w.now.Add(-time.Hour) }, level: Fail, check: "certificate", text: "ended"},
		{name: "certificate of tomorrow", wrong: func(w *world, f *Facts) { f.Certs[0].NotBefore = w.now.Add(time.Hour) }, level: Fail, check: "certificate", text: "from"},
		{name: "certificate of another", wrong: func(_ *world, f *Facts) { f.Certs[0].BadName = "mx1.test" }, level: Warn, check: "certificate", text: "mx1.test"},
		{name: "no certificate", wrong: func(_ *world, f *Facts) { f.Certs[0].Err = errors.New("no such file") }, level: Fail, check: "certificate", text: "no such file"},
		{name: "kernel", wrong: func(_ *world, f *Facts) { f.Kernel[0].Got = 128 }, level: Warn, check: "kernel", text: "128"},
		{name: "warning", wrong: func(_ *world, f *Facts) { f.Warnings = []string{"cluster.yaml:1:1: odd\nx\n^"} }, level: Warn, check: "config", text: "odd"},
		{name: "rejected", wrong: func(_ *world, f *Facts) { f.Rejected = "version 3" }, level: Fail, check: "config", text: "version 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, f := fine()
			if c.wrong != nil {
				c.wrong(w, f)
			}
			trend := c.trend
			if trend == nil {
				trend = &Trend{}
			}
			var bad []Finding
			for _, got := range w.examine(f, trend) {
				if got.Level != OK {
					bad = append(bad, got)
				}
			}
			if len(bad) != 1 || bad[0].Level != c.level || bad[0].Check != c.check || !strings.Contains(bad[0].Text, c.text) {
				t.Fatalf("found %+v", bad)
			}
			if (bad[0].Fix == "") != (c.level == Unknown) {
				t.Errorf("fix %q", bad[0].Fix)
			}
		})
	}
}

func TestManySmarthosts(t *testing.T) {
	w, f := fine()
	f.Smarthosts = make([]string, 50)
	for i := range f.Smarthosts {
		f.Smarthosts[i] = fmt.Sprintf("mail%d:25", i)
	}
	asked, left := 0, 0
	for _, got := range w.examine(f, &Trend{}) {
		switch {
		case got.Check == "smarthosts" && got.Level == OK:
			asked++
		case got.Check == "smarthosts" && strings.Contains(got.Text, "30 of 50"):
			left++
		}
	}
	if asked != maxSmarthosts || left != 1 {
		t.Errorf("%d were asked, %d lines about the others", asked, left)
	}
}

func healthy() *Cluster {
	c := &Cluster{Leader: "mx1", Quorum: true, Copies: 2, Level: 2}
	for _, n := range []string{"mx1", "mx2", "mx3"} {
		c.Members = append(c.Members, Member{Name: n, State: "alive", Version: "v1", Voter: true, Level: 2})
	}
	c.Clocks = []ClockOf{{"mx2", 2 * time.Millisecond, time.Millisecond}, {"mx3", -3 * time.Millisecond, time.Millisecond}}
	return c
}

func TestCluster(t *testing.T) {
	for _, c := range []struct {
		name  string
		wrong func(c *Cluster)
		want  string // level check: text, of what is not ok
	}{
		{"healthy", func(*Cluster) {}, ""},
		{"no leader", func(c *Cluster) { c.Quorum, c.Leader = false, "" }, "FAIL quorum: nobody leads"},
		{"a dead voter", func(c *Cluster) { c.Members[1].State = "dead" }, "warn quorum: 2 of 3;FAIL members: mx2 is silent"},
		{"two voters", func(c *Cluster) { c.Members[2].State, c.Members[2].Voter = "left", false }, "warn quorum: 2 of 2"},
		{"suspect", func(c *Cluster) { c.Members[2].State, c.Members[2].Voter = "suspect", false }, "warn quorum: 2 of 2;warn members: mx3"},
		{"lost", func(c *Cluster) { c.Lost = 3 }, "FAIL segments: 3 segments"},
		{"few copies", func(c *Cluster) { c.UnderReplicated = 4 }, "warn segments: 4 segments"},
		{"versions", func(c *Cluster) { c.Members[0].Version = "v2" }, "warn versions: v1 on mx2, mx3; v2 on mx1"},
		{"levels", func(c *Cluster) { c.Members[0].Version, c.Members[0].Level = "v2", 3 }, "warn versions: level 3 waits for mx2, mx3"},
		{"a clock", func(c *Cluster) { c.Clocks[0] = ClockOf{"mx2", 800 * time.Millisecond, 10 * time.Millisecond} }, "warn clock: mx2 is 800ms"},
		{"a wrong clock", func(c *Cluster) { c.Clocks[1] = ClockOf{"mx3", -time.Hour, 10 * time.Millisecond} }, "FAIL clock: behind"},
		{"a slow way", func(c *Cluster) { c.Clocks[0] = ClockOf{"mx2", 800 * time.Millisecond, 790 * time.Millisecond} }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := healthy()
			c.wrong(cl)
			var bad []Finding
			for _, f := range cl.Examine() {
				if f.Level != OK {
					bad = append(bad, f)
				}
			}
			var want []string
			if c.want != "" {
				want = strings.SplitN(c.want, ";", strings.Count(c.want, ";FAIL")+strings.Count(c.want, ";warn")+1)
			}
			if len(bad) != len(want) {
				t.Fatalf("found %+v, want %q", bad, want)
			}
			for i, f := range bad {
				head, text, _ := strings.Cut(want[i], ": ")
				if f.Level.String()+" "+f.Check != head || !strings.Contains(f.Text, text) || f.Fix == "" {
					t.Errorf("found %+v, want %q", f, want[i])
				}
			}
		})
	}
}

func TestMeasureClock(t *testing.T) {
	at := time.Unix(1000, 0)
	got := MeasureClock("mx2", at, at.Add(3*time.Second), at.Add(2*time.Second))
	if want := (ClockOf{"mx2", 2 * time.Second, time.Second}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
