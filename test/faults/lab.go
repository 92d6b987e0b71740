package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// errNoLab says that this machine has no network namespaces for us.
var errNoLab = errors.New("faults: no network namespaces here")

// lab is a bridge with a network namespace for each node: 10.99.X.I is node I,
// 10.99.X.254 is where the test itself is reached.
type lab struct {
	number int
	nodes  int
}

// newLab makes one; the first free number is its own.
func newLab(nodes int) (*lab, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: not root", errNoLab)
	}
	for _, tool := range []string{"ip", "nft", "tc", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: %s is not installed", errNoLab, tool)
		}
	}
	l := &lab{nodes: nodes}
	var err error
	for l.number = 1; l.number < 100; l.number++ {
		if err = command("", "ip", "link", "add", l.bridge(), "type", "bridge"); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoLab, err)
	}
	if err := l.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errNoLab, err), l.close())
	}
	return l, nil
}

func (l *lab) bridge() string      { return fmt.Sprintf("clrb%d", l.number) }
func (l *lab) space(i int) string  { return fmt.Sprintf("clr%dn%d", l.number, i) }
func (l *lab) near(i int) string   { return fmt.Sprintf("clr%dv%d", l.number, i) }
func (l *lab) host(i int) string   { return fmt.Sprintf("10.99.%d.%d", l.number, i) }
func (l *lab) outside() string     { return l.host(254) }
func (l *lab) wrap(i int) []string { return []string{"nsenter", "--net=/var/run/netns/" + l.space(i)} }

func (l *lab) build() error {
	script := [][]string{
		{"addr", "add", l.outside() + "/24", "dev", l.bridge()},
		{"link", "set", l.bridge(), "up"},
	}
	for i := 1; i <= l.nodes; i++ {
		near, space := l.near(i), l.space(i)
		script = append(script,
			[]string{"netns", "add", space},
			[]string{"link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", space},
			[]string{"link", "set", near, "master", l.bridge(), "up"},
			[]string{"-n", space, "addr", "add", l.host(i) + "/24", "dev", "eth0"},
			[]string{"-n", space, "link", "set", "eth0", "up"},
			[]string{"-n", space, "link", "set", "lo", "up"},
		)
	}
	for _, args := range script {
		if err := command("", "ip", args...); err != nil {
			return err
		}
	}
	return nil
}

// close takes all of it away.
func (l *lab) close() error {
	var errs []error
	for i := 1; i <= l.nodes; i++ {
		_ = command("", "ip", "link", "del", l.near(i)) // the namespace takes it along, but not at once
		if _, err := os.Stat(filepath.Join("/var/run/netns", l.space(i))); err == nil {
			errs = append(errs, command("", "ip", "netns", "del", l.space(i)))
		}
	}
	return errors.Join(append(errs, command("", "ip", "link", "del", l.bridge()))...)
}

// inside runs a command in a node's namespace.
func (l *lab) inside(i int, stdin, name string, args ...string) error {
	w := l.wrap(i)
	return command(stdin, w[0], append(append(w[1:], name), args...)...)
}

// deafen makes a node drop all that those nodes send to it from now on, and
// nothing else. Connections are not told.
func (l *lab) deafen(i int, to ...int) error { return l.lose(i, 100, to...) }

// lose makes a node drop so many of a hundred packets that those nodes send to
// it.
func (l *lab) lose(i, percent int, to ...int) error {
	rules := ""
	for _, j := range to {
		chance := fmt.Sprintf(" numgen random mod 100 < %d", percent)
		if percent == 100 {
			chance = ""
		}
		rules += "ip saddr " + l.host(j) + chance + " drop\n"
	}
	return l.inside(i, "table inet faults\ndelete table inet faults\ntable inet faults {\nchain in {\ntype filter hook input priority 0\n"+rules+"}\n}\n", "nft", "-f", "-")
}

// slow bounds what a node sends, in bits a second; 0: not at all.
func (l *lab) slow(i, rate int) error {
	if rate == 0 {
		_ = l.inside(i, "", "tc", "qdisc", "del", "dev", "eth0", "root") // there may be none
		return nil
	}
	return l.inside(i, "", "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf",
		"rate", fmt.Sprintf("%dbit", rate), "burst", "16kb", "latency", "400ms")
}

func command(stdin, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
