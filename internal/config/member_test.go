package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/internal/config/strict"
)

const memberNode = "node: mx1\nhostname: mx1.example.edu\nsmtp: [{listen: \"127.0.0.1:0\"}]\ntls_dir: tls\n"

func member(t *testing.T, dir, text string) (*Node, error) {
	t.Helper()
	return readNode(check{strict.Parse("node.yaml", dir, []byte(text)), true})
}

// TestMemberAddresses: what the other nodes are told.
func TestMemberAddresses(t *testing.T) {
	dir := fixtures(t)
	for text, want := range map[string]string{
		"{listen: 10.0.0.1:7525, gossip: 10.0.0.2:7526}":              "10.0.0.1:7525 10.0.0.2:7526",
		"{listen: \":7525\", gossip: 10.0.0.1:1, advertise: mx1}":     "mx1:7525 mx1:1",
		"{listen: \"[::]:1\", gossip: \":2\", advertise: \"::1\"}":    "[::1]:1 [::1]:2",
		"{listen: \"[::1]:1\", gossip: \":2\", advertise: \"[::1]\"}": "[::1]:1 [::1]:2",
	} {
		n, err := member(t, dir, memberNode+"cluster: "+strings.TrimSuffix(text, "}")+", join: [a, b:2]}\n")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := n.Cluster.Address() + " " + n.Cluster.GossipAddress(); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		if n.Cluster.Join[0].String() != "a:7526" || n.Cluster.Join[1].String() != "b:2" {
			t.Errorf("%s: join %v", text, n.Cluster.Join)
		}
	}
}

// TestCopies: their default depends on the node, and so does whether there may
// be more than one.
func TestCopies(t *testing.T) {
	dir := fixtures(t)
	alone, err := member(t, dir, memberNode)
	if err != nil {
		t.Fatal(err)
	}
	one, err := member(t, dir, memberNode+"cluster: {listen: 10.0.0.1:1, gossip: 10.0.0.1:2, bootstrap_expect: 3, join: [a]}\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text string
		n    *Node
		want int
		say  string
	}{
		{"", alone, 1, ""}, {"", one, 2, ""}, {"", nil, 0, ""}, {"spool: {reserve: 1GiB}", one, 2, ""},
		{"spool: {copies: 1}", alone, 1, ""}, {"spool: {copies: 3}", one, 3, ""}, {"spool: {copies: 3}", nil, 3, ""},
		{"spool: {copies: 1}", one, 1, "is on one machine alone"},
		{"spool: {copies: 2}", alone, 0, "cluster.yaml:1:17: spool.copies: 2 copies need as many machines, and node.yaml has no cluster section"},
	} {
		got, err := readCluster(check{strict.Parse("cluster.yaml", dir, []byte(c.text)), true}, c.n)
		switch {
		case err != nil:
			if c.want != 0 || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%q: %v", c.text, err)
			}
		case got.Spool.Copies != c.want || !strings.Contains(got.Warnings.Error(), c.say):
			t.Errorf("%q: %d copies, want %d; warnings %v", c.text, got.Spool.Copies, c.want, got.Warnings)
		}
	}
	got, err := ParseCluster("version 7", []byte("deliver: {ca_file: ca.pem}\n"), alone)
	if err != nil || got.Deliver.CAFile != Path(filepath.Join(dir, "ca.pem")) {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestMemberWithoutSettings: a node of a cluster may go without cluster.yaml,
// but not with a wrong one.
func TestMemberWithoutSettings(t *testing.T) {
	dir := fixtures(t)
	f := check{strict.Parse("node.yaml", dir, []byte(memberNode+"cluster: {listen: 10.0.0.1:1, gossip: 10.0.0.1:2, join: [a]}\n")), true}
	n, err := readNode(f)
	if err != nil {
		t.Fatal(err)
	}
	c, err := readNamed(f, n)
	if err != nil || c.Spool.Copies != 2 || len(c.Routes) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	n.ClusterConfig = Path(filepath.Join(dir, "garbage.pem"))
	if _, err := readNamed(f, n); err == nil {
		t.Error("a wrong file passed")
	}
	n.ClusterConfig = Path(dir)
	if _, err := readNamed(f, n); err == nil {
		t.Error("a folder passed")
	}
}

// TestOneSwitch: whether clusters run at all is said in one place.
func TestOneSwitch(t *testing.T) {
	_, err := readNode(check{strict.Parse("node.yaml", fixtures(t), []byte(memberNode+"cluster: {listen: 10.0.0.1:1, gossip: 10.0.0.1:2, join: [a]}\n")), false})
	if err == nil || !strings.Contains(err.Error(), "cluster: not in this version yet") {
		t.Errorf("%v", err)
	}
}

// TestExamples: they load as they are, and with every line that is commented
// out.
func TestExamples(t *testing.T) {
	dir := fixtures(t)
	for _, file := range []string{"node.yaml", "cluster.yaml"} {
		var all strings.Builder
		for line := range strings.Lines(Example(file)) {
			if rest, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(rest, " ") || strings.HasPrefix(rest, "  ") {
				line = rest
			}
			all.WriteString(strings.Replace(line, "/etc/clrelay/tls", "tls", 1))
		}
		for _, text := range []string{Example(file), all.String()} {
			f := check{strict.Parse(file, dir, []byte(text)), true}
			var err error
			if file == "node.yaml" {
				_, err = readNode(f)
			} else {
				_, err = readCluster(f, nil)
			}
			if err != nil && !strings.Contains(err.Error(), "the machine's own name") {
				t.Errorf("%v\n%s", err, text)
			}
		}
	}
}

// TestPoolsOfANode: a pool of which a node has nothing is worth a warning, on
// that node alone.
func TestPoolsOfANode(t *testing.T) {
	const text = "pools: [{name: a, sources: [{name: out1}, {name: out2}]}, {name: b, on_missing: wait, sources: [{name: out3}]}]\n" +
		"senders: [{name: x, networks: [10.0.0.0/8], pool: a}, {name: y, networks: [10.1.0.0/16], pool: b}]\n"
	for _, c := range []struct {
		sources []Source
		want    []string
	}{
		{nil, []string{"node.yaml of mx1 has none of the sources of the pool a: the system chooses", "none of the sources of the pool b: its mail waits here"}},
		{[]Source{{Name: "out2"}}, []string{"", "of the pool b"}},
		{[]Source{{Name: "out2"}, {Name: "out3"}}, nil},
	} {
		n := &Node{Name: "mx1", Sources: c.sources}
		got, err := readCluster(check{strict.Parse("cluster.yaml", t.TempDir(), []byte(text)), true}, n)
		if err != nil {
			t.Fatal(err)
		}
		all := got.Warnings.Error()
		for _, w := range c.want {
			if !strings.Contains(all, w) {
				t.Errorf("%v: %q is missing in %s", c.sources, w, all)
			}
		}
		if n := strings.Count(all, "of the pool"); n != strings.Count(strings.Join(c.want, " "), "of the pool") {
			t.Errorf("%v: %s", c.sources, all)
		}
	}
}
