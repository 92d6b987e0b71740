package config_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/config"
)

const goodNode = "node: mx1\nhostname: mx1.example.edu\nsmtp:\n  - {listen: \"127.0.0.1:0\"}\n"

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEmptyClusterIsNoOpenRelay(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "{}\n", "senders:\ndomains:\n", "senders: []\ndomains: []\n"} {
		c, err := config.LoadCluster(write(t, t.TempDir(), "cluster.yaml", text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if len(c.Senders) != 0 || len(c.Domains) != 0 {
			t.Errorf("%q lets %v relay and takes mail for %v", text, c.Senders, c.Domains)
		}
	}
}

func TestDefaults(t *testing.T) {
	c, err := config.LoadCluster(write(t, t.TempDir(), "cluster.yaml", ""))
	if err != nil {
		t.Fatal(err)
	}
	minutes := func(ms ...int) (out []config.Duration) {
		for _, m := range ms {
			out = append(out, config.Duration(time.Duration(m)*time.Minute))
		}
		return out
	}
	for name, d := range map[string][2]any{
		"max_size":     {c.Receive.MaxSize, config.Size(50 << 20)},
		"connections":  {c.Receive.MaxConnections, 5000},
		"per client":   {c.Receive.PerClientConnections, 200},
		"recipients":   {c.Receive.MaxRecipients, 1000},
		"retry":        {c.Queue.Retry, minutes(1, 5, 15, 30, 60, 120, 240)},
		"expire":       {time.Duration(c.Queue.Expire), 120 * time.Hour},
		"delay":        {c.Queue.DelayWarning, config.Duration(0)},
		"doublebounce": {c.Queue.DoubleBounce, "drop"},
		"copies":       {c.Spool.Copies, 0}, // it depends on the node
		"lease":        {time.Duration(c.Failover.Lease), 5 * time.Second},
		"rereplicate":  {time.Duration(c.Failover.RereplicateAfter), time.Minute},
		"unclean":      {time.Duration(c.Failover.UncleanAfter), 10 * time.Minute},
		"reserve":      {c.Spool.Reserve, config.Size(0)},
		"routes":       {len(c.Routes), 1},
		"route":        {c.Routes[0].Action, config.Action{MX: true, TLS: "opportunistic", EightBit: "pass"}},
		"match":        {len(c.Routes[0].Match.Domains), 0},
		"servers":      {len(c.DNS.Servers), 0},
		"command":      {time.Duration(c.Receive.Timeouts.Command), 5 * time.Minute},
	} {
		if !reflect.DeepEqual(d[0], d[1]) {
			t.Errorf("%s: %v, want %v", name, d[0], d[1])
		}
	}

	dir := t.TempDir()
	n, err := config.LoadNode(write(t, dir, "node.yaml", goodNode))
	if err != nil {
		t.Fatal(err)
	}
	if n.DataDir != "/var/lib/clrelay" || n.ClusterConfig != config.Path(filepath.Join(dir, "cluster.yaml")) || n.TLSDir != "/etc/clrelay/tls" {
		t.Errorf("paths: %q %q %q", n.DataDir, n.ClusterConfig, n.TLSDir)
	}
	if n.HTTP.String() != "127.0.0.1:7580" || n.HTTPSet || !n.LBAgent.IsZero() || n.LBAgent.String() != "" {
		t.Errorf("http %v (set %t), lb_agent %v", n.HTTP, n.HTTPSet, n.LBAgent)
	}
	if n.SMTP[0].Mode != config.ModeRelay || n.SMTP[0].TLS != nil || n.Log.Format != "text" || n.Log.Level != "info" {
		t.Errorf("listener %+v, log %+v", n.SMTP[0], n.Log)
	}
}

func TestEverySettingIsRead(t *testing.T) {
	dir := t.TempDir()
	pass := write(t, dir, "pass", "secret\n")
	c, err := config.LoadCluster(write(t, dir, "cluster.yaml", `
senders:
  - {name: campus, networks: [10.0.0.0/8, "::ffff:192.0.2.0/120", 2001:db8::1]}
domains:
  - {name: example.edu}
  - {name: BÜCHER.example, recipients: any}
receive: {max_size: 10MB, timeouts: {data: 90s}}
routes:
  - match: {domains: [a.example, "*.b.example"]}
    action:
      smarthost: [mail.example.edu, "[2001:db8::2]:587"]
      tls: verify
      auth: {user: relay, password_file: pass}
      eightbit: bounce
  - {match: {domains: [c.example]}, action: {smarthost: ["127.0.0.1"], lmtp: true}}
  - {match: {}, action: {mx: true, tls: none}}
spool: {reserve: 1GiB}
queue: {retry: [1s, 1h30m], expire: 2d, trash: 0, delay_warning: 4h, double_bounce: postmaster}
dns: {servers: ["127.0.0.1:5353", "::1"]}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::1/128")}
	if got := config.Prefixes(c.Senders[0].Networks); !slices.Equal(got, want) {
		t.Errorf("networks %v, want %v", got, want)
	}
	if c.Domains[1].Name != "xn--bcher-kva.example" || c.Postmaster.String() != "postmaster@example.edu" || c.Deliver.MXPort != 25 {
		t.Errorf("domain %q, postmaster %q", c.Domains[1].Name, c.Postmaster)
	}
	a := c.Routes[0].Action
	if a.MX || a.TLS != "verify" || a.EightBit != "bounce" || a.Auth == nil || *a.Auth != (config.Auth{User: "relay", PasswordFile: config.Path(pass)}) {
		t.Errorf("action %+v, auth %+v", a, a.Auth)
	}
	if got := fmt.Sprint(a.Smarthost, c.Routes[1].Action.Smarthost); got != "[mail.example.edu:25 [2001:db8::2]:587] [127.0.0.1:24]" {
		t.Errorf("smarthosts %s", got)
	}
	if got := fmt.Sprint(c.Queue, c.Spool, c.DNS.Servers, c.Receive.Timeouts.Data); got != "{[1s 90m] 2d 0s 4h postmaster} {0 1GiB} [127.0.0.1:5353 [::1]:53] 90s" {
		t.Errorf("queue, spool, dns, timeout: %s", got)
	}
}

func TestNeedsRestart(t *testing.T) {
	dir := t.TempDir()
	load := func(text string) *config.Node {
		n, err := config.LoadNode(write(t, dir, "node.yaml", text))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := load(goodNode)
	for text, want := range map[string][]string{
		goodNode: nil,
		goodNode + "log: {level: debug}\ncluster_config: other.yaml\n":                                       nil,
		goodNode + "log: {format: json}\nhttp: none\n":                                                       {"http", "log.format"},
		goodNode + "  - {listen: \"127.0.0.2:0\"}\n":                                                         {"smtp"},
		strings.Replace(goodNode, "127.0.0.1:0", "127.0.0.1:2525", 1):                                        {"smtp[0].listen"},
		strings.Replace(goodNode, "\"}", "\", binarymime: true, proxy_from: [10.0.0.1]}", 1) + "data_dir: x": {"data_dir", "smtp[0].proxy_from", "smtp[0].binarymime"},
	} {
		if got := config.NeedsRestart(before, load(text)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}

	cl := func(text string) *config.Cluster {
		c, err := config.LoadCluster(write(t, dir, "cluster.yaml", text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	got := config.ClusterNeedsRestart(cl(""), cl("senders: [{name: a, networks: [10.0.0.1]}]\nspool: {reserve: 1GiB}\nreceive: {max_size: 1MiB}"))
	if !slices.Equal(got, []string{"spool.reserve"}) {
		t.Errorf("cluster: %q", got)
	}
}

// TestKeep: after a reload the settings say what is in force, so that the next
// reload is compared with that.
func TestKeep(t *testing.T) {
	dir := t.TempDir()
	load := func(node, cluster string) (*config.Node, *config.Cluster) {
		write(t, dir, "cluster.yaml", cluster)
		n, c, err := config.Load(write(t, dir, "node.yaml", node))
		if err != nil {
			t.Fatal(err)
		}
		return n, c
	}
	n1, c1 := load(goodNode, "dns: {servers: [127.0.0.1]}\nspool: {reserve: 1GiB}\n")
	n2, c2 := load("node: mx2\nhostname: mx2.example.edu\ndata_dir: x\nsmtp: [{listen: \"127.0.0.1:1\"}, {listen: \"127.0.0.1:2\"}]\nhttp: none\nlog: {level: debug, format: json}\n",
		"dns: {servers: [127.0.0.2]}\ndeliver: {mx_port: 26, per_destination: 7}\nreceive: {max_size: 1MiB}\nqueue: {double_bounce: postmaster, expire: 3d}\n")
	config.Keep(n1, n2)
	config.KeepCluster(c1, c2)
	if got := append(config.NeedsRestart(n1, n2), config.ClusterNeedsRestart(c1, c2)...); len(got) != 0 {
		t.Errorf("not kept: %q", got)
	}
	if n2.Hostname != "mx1.example.edu" || len(n2.SMTP) != 1 || n2.HTTP.IsZero() || n2.Log.Format != "text" || n2.Log.Level != "debug" {
		t.Errorf("node: %+v", n2)
	}
	if c2.DNS.Servers[0].String() != "127.0.0.1:53" || c2.Deliver.MXPort != 25 || c2.Spool.Reserve != 1<<30 || c2.Queue.DoubleBounce != "drop" {
		t.Errorf("cluster: %+v", c2)
	}
	if c2.Deliver.PerDestination != 7 || c2.Receive.MaxSize != 1<<20 || time.Duration(c2.Queue.Expire) != 72*time.Hour {
		t.Errorf("what needs no restart was kept, too: %+v", c2)
	}
}

// TestLoad: both files, or the errors of one; the other file's absence is an
// error of the line that names it.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	node := write(t, dir, "node.yaml", goodNode)
	load := func(want string) {
		t.Helper()
		_, _, err := config.Load(node)
		var errs config.Errors
		if !errors.As(err, &errs) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	load("node.yaml:1:1: cluster_config: there is no file ")
	if err := os.Mkdir(filepath.Join(dir, "cluster.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	load("cluster.yaml cannot be read: is a directory")
	if err := os.Remove(filepath.Join(dir, "cluster.yaml")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "cluster.yaml", "receive: {max_recipients: 65536}\n") // more than the store takes
	load("65535")
	write(t, dir, "cluster.yaml", "")
	if n, c, err := config.Load(node); err != nil || n.Name != "mx1" || c == nil || c.Spool.Copies != 1 {
		t.Errorf("%v %v %v", n, c, err)
	}
	if _, _, err := config.Load(filepath.Join(dir, "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestValidate(t *testing.T) {
	dir := t.TempDir()
	cluster := write(t, dir, "cluster.yaml", "senders: [{name: all, networks: [0.0.0.0/0]}]\n")
	node := write(t, dir, "node.yaml", goodNode)
	for path, want := range map[string]string{
		cluster: cluster, node: node + " " + cluster,
		write(t, dir, "empty.yaml", ""): filepath.Join(dir, "empty.yaml"),
	} {
		r, err := config.Validate(path)
		if err != nil || strings.Join(r.Files, " ") != want {
			t.Errorf("%s: %q, %v", path, r.Files, err)
		}
		if path == node && len(r.Warnings) != 1 {
			t.Errorf("warnings of both files: %v", r.Warnings)
		}
	}
	write(t, dir, "broken.yaml", "senderss: []\n")
	for name, c := range map[string]struct{ text, want string }{
		"a.yaml":         {"senderss: []\n", `unknown key "senderss"; did you mean "senders"?`},
		"b.yaml":         {"nod: mx1\nsmtp: []\n", `unknown key "nod"; did you mean "node"?`},
		"node2.yaml":     {"", `the key "node" is missing`},
		"nocluster.yaml": {goodNode + "cluster_config: none.yaml\n", "nocluster.yaml:5:17: cluster_config: there is no file"},
		"bad.yaml":       {goodNode + "cluster_config: broken.yaml\n", `broken.yaml:1:1: unknown key "senderss"`},
	} {
		_, err := config.Validate(write(t, dir, name, c.text))
		var errs config.Errors
		if !errors.As(err, &errs) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := config.Validate(filepath.Join(dir, "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := config.LoadNode(dir); err == nil {
		t.Error("a folder was read")
	}
	if _, err := config.LoadCluster(filepath.Join(dir, "none.yaml")); err == nil {
		t.Error("a missing file was read")
	}
}

func TestExplain(t *testing.T) {
	for _, key := range config.Keys() {
		text, err := config.Explain(key)
		if err != nil || !strings.HasPrefix(text, key+" (") || !strings.Contains(text, "type:") || len(strings.Split(text, "\n")) < 4 {
			t.Errorf("%s: %q, %v", key, text, err)
		}
		for _, line := range strings.Split(text, "\n") {
			if len(line) > 130 {
				t.Errorf("%s: a line of %d characters: %s", key, len(line), line)
			}
		}
	}
	text, err := config.Explain("delay_warning")
	want := `queue.delay_warning (cluster.yaml)

Age at which the sender is told that mail is still waiting.

type:     duration | off
bounds:   1s to 90d
default:  off
example:  delay_warning: 4h
change:   SIGHUP is enough
`
	if err != nil || text != want {
		t.Errorf("got\n%s\n%v", text, err)
	}
	for key, want := range map[string]string{
		"recieve.max_size": `did you mean "receive.max_size"?`,
		"tls":              "smtp.tls or routes.action.tls",
		"max_sizes":        "did you mean receive.max_size or trace.max_size?",
		"qwertyuiop":       `there is no setting "qwertyuiop"`,
		"":                 `there is no setting ""`,
	} {
		if _, err := config.Explain(key); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", key, err, want)
		}
	}
}

func TestErrorsAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range 500 {
		fmt.Fprintf(&b, "zz%d: 1\n", i)
	}
	_, err := config.LoadCluster(write(t, t.TempDir(), "cluster.yaml", b.String()))
	if err == nil || !strings.HasSuffix(err.Error(), "\nand there may be more: mend these first") {
		t.Errorf("%v", err)
	}
	_, err = config.LoadCluster(write(t, t.TempDir(), "cluster.yaml", strings.Repeat("#\n", 3<<20)))
	if err == nil || !strings.Contains(err.Error(), "the file is larger than 4194304 octets") {
		t.Errorf("%v", err)
	}
}

// A file as large as is allowed is read in seconds, right or wrong.
func TestLargeFiles(t *testing.T) {
	var domains, routes strings.Builder
	domains.WriteString("domains:\n")
	for i := 0; domains.Len() < 1<<20; i++ {
		fmt.Fprintf(&domains, "  - {name: d%d.example.edu, recipients: any}\n", i)
	}
	routes.WriteString("routes:\n")
	for i := 0; routes.Len() < 1<<20; i++ {
		fmt.Fprintf(&routes, "  - {match: {domains: [d%d.example.edu]}, action: {smarthost: [m%d.example.edu]}}\n", i, i)
	}
	for name, text := range map[string]string{
		"domains": domains.String(), "routes": routes.String(),
		"keys": strings.Repeat("aaaa: 1\n", 1<<16), "words": strings.Repeat("a ", 1<<20), "flow": "senders: [" + strings.Repeat("{},", 1<<17) + "]",
	} {
		start := time.Now()
		_, err := config.LoadCluster(write(t, t.TempDir(), "cluster.yaml", text))
		if (name == "domains" || name == "routes") && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, time.Since(start))
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("%s took %v", name, d)
		}
	}
}
