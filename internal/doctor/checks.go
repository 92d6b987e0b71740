package doctor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"
)

// What is too much.
const (
	diskWarn, diskFail   = 0.15, 0.05 // share that is free
	soon                 = 3 * 24 * time.Hour
	syncWarn, syncFail   = 25 * time.Millisecond, 300 * time.Millisecond // half of the syncs
	syncs                = 8
	dnsWarn              = time.Second
	certWarn, certFail   = 21 * 24 * time.Hour, 3 * 24 * time.Hour
	nearLimit            = 0.8
	maxSmarthosts        = 20
	clockWarn, clockFail = 500 * time.Millisecond, 5 * time.Second
)

// service tells whether the node does its work.
func service(f *Facts) []Finding {
	out := []Finding{ok("service", "takes mail")}
	switch {
	case f.Draining:
		out[0] = ok("service", "is being drained: it takes no mail").but(Warn, "clrelay node resume, when it is to take mail again")
	case f.NotReady != "":
		out[0] = ok("service", "takes no mail: %s", f.NotReady).but(Fail, "the log says more; docs/operations.md, \"At 3 a.m.\"")
	}
	if f.Imbalance != 0 {
		out = append(out, ok("ledger", "the spool and the queue differ by %d messages", f.Imbalance).
			but(Fail, "clrelay_ledger_imbalance_messages must be 0: keep the log, and report it"))
	}
	if f.LogLost > 0 {
		out = append(out, ok("log", "%d lines were lost: whoever reads the log is too slow", f.LogLost).
			but(Warn, "see that the reader of the relay's stdout keeps up (journald's rate limit?)"))
	}
	return out
}

// space looks at the disk of data_dir and where it is heading.
func (n *Node) space(f *Facts) []Finding {
	free, size, err := n.Disk.Space()
	if err != nil || size == 0 {
		return []Finding{unknown("disk", "free space of data_dir cannot be told: %v", err)}
	}
	share := float64(free) / float64(size)
	out := ok("disk", "%s of %s free (%.0f %%)", octets(free), octets(size), 100*share)
	const fix = "make room, or move data_dir to a larger disk; below spool.reserve no mail is taken"
	switch {
	case free <= f.Reserve || share < diskFail:
		return []Finding{out.but(Fail, fix)}
	case share < diskWarn:
		return []Finding{out.but(Warn, fix)}
	}
	rate, span := n.Trend.Rate()
	if span == 0 || rate <= 0 {
		return []Finding{out}
	}
	left := time.Duration(float64(free-f.Reserve)/rate) * time.Second
	if left > 0 && left < 365*24*time.Hour {
		out.Text += fmt.Sprintf("; at the rate of the last %s full in %s", round(span), round(left))
		if left < soon {
			return []Finding{out.but(Warn, "see what grows: clrelay queue shape, du -s data_dir; %s", fix)}
		}
	}
	return []Finding{out}
}

// fsync measures what stands between a message and its 250.
func (n *Node) fsync(ctx context.Context, f *Facts) []Finding {
	took, err := n.Disk.Sync(ctx, syncs)
	if err != nil {
		return []Finding{ok("fsync", "data_dir cannot be written and synced: %v", err).
			but(Fail, "is it mounted read-only, full, or owned by another user? dmesg may tell of a disk that fails")}
	}
	p50, worst := percentile(took, 0.5), percentile(took, 1)
	out := ok("fsync", "%s now, worst of %d %s", round(p50), len(took), round(worst))
	if f.FsyncCount > 0 {
		out.Text += fmt.Sprintf("; of the log %s, p99 %s", round(f.FsyncP50), round(f.FsyncP99))
	}
	const fix = "every 250 waits for a sync: a faster disk, a controller with a battery, or less else on this one"
	switch {
	case p50 >= syncFail:
		return []Finding{out.but(Fail, fix)}
	case p50 >= syncWarn || f.FsyncCount > 100 && f.FsyncP99 >= syncFail:
		return []Finding{out.but(Warn, fix)}
	}
	return []Finding{out}
}

// limits looks at descriptors and memory.
func limits(f *Facts) []Finding {
	files := ok("files", "%d of %d descriptors in use", f.Files.Used, f.Files.Max)
	switch {
	case f.Files.Max == 0:
		files = unknown("files", "the limit of open files cannot be told")
	case float64(f.Files.Used) > nearLimit*float64(f.Files.Max):
		files = files.but(Fail, "raise LimitNOFILE in systemd: at the limit nobody is let in")
	case f.Files.Max < f.FilesNeeded:
		files.Text += fmt.Sprintf("; the configuration allows connections that need %d", f.FilesNeeded)
		files = files.but(Warn, "raise LimitNOFILE in systemd, or lower receive.max_connections and deliver.max_connections")
	}
	memory := ok("memory", "no limit of a control group")
	if m := f.Memory; m.Max > 0 {
		memory.Text = fmt.Sprintf("%s of the control group's %s in use", octets(m.Used), octets(m.Max))
		if float64(m.Used) > nearLimit*float64(m.Max) {
			memory = memory.but(Warn, "raise MemoryMax (systemd) or the container's limit: over it the kernel kills the relay")
		}
	}
	return []Finding{files, memory}
}

func (n *Node) clock() []Finding {
	yes, known := n.Clock.Synchronised()
	switch {
	case !known:
		return []Finding{unknown("ntp", "the kernel does not tell whether the clock is synchronised")}
	case !yes:
		return []Finding{ok("ntp", "the clock is not synchronised").but(Warn, "run chrony or systemd-timesyncd: times in mail and log, and the expiry of certificates, go by it")}
	}
	return []Finding{ok("ntp", "the clock is synchronised")}
}

// dns asks the resolver for a name that nobody can have.
func (n *Node) dns(ctx context.Context) []Finding {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var b [8]byte
	rand.Read(b[:]) // never fails
	name := "clrelay-" + hex.EncodeToString(b[:]) + ".example.com"
	start := n.Now()
	exists, err := n.DNS.Exists(ctx, name)
	took := n.Now().Sub(start)
	out := ok("dns", "answered in %s, and tells what does not exist", round(took))
	switch {
	case err != nil:
		return []Finding{ok("dns", "no answer: %v", err).but(Fail, "mail by MX waits for it: see dns.servers in cluster.yaml, /etc/resolv.conf, and a firewall on port 53")}
	case exists:
		return []Finding{ok("dns", "the resolver makes up an address for %s, which does not exist", name).
			but(Fail, "NXDOMAIN is rewritten: mail for misspelt domains would wait for days. Use another resolver, best one of your own: dns.servers")}
	case took > dnsWarn:
		return []Finding{out.but(Warn, "a resolver on this machine, such as unbound, answers from memory: dns.servers")}
	}
	return []Finding{out}
}

// each runs a check for all at the same time, n at most.
func each[T any](all []T, check func(T) Finding) []Finding {
	out := make([]Finding, len(all))
	var group sync.WaitGroup
	for i, one := range all {
		group.Go(func() { out[i] = check(one) })
	}
	group.Wait()
	return out
}

func (n *Node) listeners(ctx context.Context, f *Facts) []Finding {
	return each(f.Listeners, func(l Listener) Finding {
		if l.Proxy {
			return unknown("listener", "%s wants the header of a proxy, and was left alone", l.Addr)
		}
		return n.greeting(ctx, "listener", "itself at "+l.Addr, l.Addr, l.Implicit)
	})
}

// greeting connects to a port that ought to speak SMTP.
func (n *Node) greeting(ctx context.Context, check, what, addr string, implicit bool) Finding {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	line, err := n.Net.Greeting(ctx, addr, implicit)
	switch {
	case err != nil:
		return ok(check, "cannot reach %s: %v", what, err).but(Fail, "see that it listens there (ss -ltn), and that no firewall is between")
	case strings.HasPrefix(line, "220"):
		return ok(check, "%s answers", what)
	case strings.HasPrefix(line, "421"):
		return ok(check, "%s turns clients away: %.80s", what, line).but(Warn, "it drains, or has as many connections as it may: receive.max_connections")
	}
	return ok(check, "%s says %.80q", what, line).but(Fail, "another program listens there")
}

func (n *Node) peers(ctx context.Context, f *Facts) []Finding {
	return each(f.Peers, func(p Peer) Finding {
		return n.greeting(ctx, "peers", "SMTP of "+p.Node+" at "+p.Addr, p.Addr, false)
	})
}

func (n *Node) smarthosts(ctx context.Context, f *Facts) []Finding {
	hosts := f.Smarthosts
	var out []Finding
	if len(hosts) > maxSmarthosts {
		out = append(out, unknown("smarthosts", "%d of %d were left alone", len(hosts)-maxSmarthosts, len(hosts)))
		hosts = hosts[:maxSmarthosts]
	}
	return append(each(hosts, func(addr string) Finding {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		if err := n.Net.Dial(ctx, addr); err != nil {
			return ok("smarthosts", "%s cannot be reached: %v", addr, err).
				but(Fail, "is it up, and does a firewall let this node out to it? clrelay test address ADDRESS --probe tells more")
		}
		return ok("smarthosts", "%s can be reached", addr)
	}), out...)
}

func (n *Node) certs(f *Facts) (out []Finding) {
	now := n.Now()
	for _, c := range f.Certs {
		left := c.NotAfter.Sub(now)
		good := ok("certificate", "%s good for %s (%s)", c.What, round(left), c.File)
		switch {
		case c.Err != nil:
			good = ok("certificate", "%s: %v", c.What, c.Err).but(Fail, "%s", c.Renew)
		case left <= 0:
			good = ok("certificate", "%s ended %s ago (%s)", c.What, round(-left), c.File).but(Fail, "%s", c.Renew)
		case now.Before(c.NotBefore):
			good = ok("certificate", "%s holds from %s on alone (%s)", c.What, c.NotBefore.Format(time.RFC3339), c.File).but(Fail, "is the clock right? %s", c.Renew)
		case left < certFail:
			good = good.but(Fail, "%s", c.Renew)
		case left < certWarn:
			good = good.but(Warn, "%s", c.Renew)
		case c.BadName != "":
			good = ok("certificate", "%s is not for %s (%s)", c.What, c.BadName, c.File).but(Warn, "clients that verify it turn away: get one with that name")
		}
		out = append(out, good)
	}
	return out
}

func kernel(f *Facts) (out []Finding) {
	for _, s := range f.Kernel {
		good := ok("kernel", "%s is %d", s.Name, s.Got)
		if s.Got < s.Want {
			good = good.but(Warn, "sysctl -w %s=%d: %s", s.Name, s.Want, s.Why)
		}
		out = append(out, good)
	}
	return out
}

func configuration(f *Facts) (out []Finding) {
	if f.Rejected != "" {
		out = append(out, ok("config", "%s", f.Rejected).but(Fail, "mend what it says, and apply the configuration again"))
	}
	for _, w := range f.Warnings {
		first, _, _ := strings.Cut(w, "\n")
		out = append(out, ok("config", "%s", first).but(Warn, "clrelay config explain KEY tells about a setting"))
	}
	if out == nil {
		out = append(out, ok("config", "no warnings"))
	}
	return out
}

// octets writes a size for humans.
func octets(n uint64) string {
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for len(units) > 1 && f >= 1000 {
		f, units = f/1024, units[1:]
	}
	return fmt.Sprintf("%.3g %s", f, units[0])
}

// round writes a time in as many digits as matter.
func round(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= time.Hour:
		return fmt.Sprintf("%.1f hours", d.Hours())
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}
