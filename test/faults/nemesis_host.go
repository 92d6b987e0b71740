package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// quotas is where the kernel hands out processor time.
const quotas = "/sys/fs/cgroup/cpu"

// has tells whether a program is installed.
func has(tool string) func() bool {
	return func() bool { _, err := exec.LookPath(tool); return err == nil && os.Geteuid() == 0 }
}

// hasQuotas tells whether processor time can be taken from a process.
func hasQuotas() bool {
	_, err := os.Stat(filepath.Join(quotas, "cpu.cfs_quota_us"))
	return err == nil && os.Geteuid() == 0
}

// starve leaves a node a small part of one processor.
func (n *nemesis) starve() error {
	i, percent, d := n.any(), 1+n.rng.IntN(10), n.between(4, 15)
	n.say("%s has %d %% of a processor for %v", name(i), percent, d)
	pid := n.cluster.Nodes[i].PID()
	group := filepath.Join(quotas, fmt.Sprintf("clrelay-faults-%d", pid))
	if err := os.Mkdir(group, 0o755); err != nil {
		return err
	}
	write := func(file, text string) error { return os.WriteFile(file, []byte(text), 0o644) }
	err := errors.Join(
		write(filepath.Join(group, "cpu.cfs_period_us"), "100000"),
		write(filepath.Join(group, "cpu.cfs_quota_us"), strconv.Itoa(percent*1000)),
		write(filepath.Join(group, "cgroup.procs"), strconv.Itoa(pid)),
	)
	n.hold(d)
	back := write(filepath.Join(quotas, "cgroup.procs"), strconv.Itoa(pid))
	if errors.Is(back, syscall.ESRCH) {
		back = nil // it has ended
	}
	return errors.Join(err, back, os.Remove(group))
}

// fewFiles lets a node open no more files and connections than it has.
func (n *nemesis) fewFiles() error {
	i, d := n.any(), n.between(3, 12)
	pid := strconv.Itoa(n.cluster.Nodes[i].PID())
	open, err := os.ReadDir(filepath.Join("/proc", pid, "fd"))
	if err != nil {
		return err
	}
	n.say("%s may open no more than its %d files for %v", name(i), len(open), d)
	// A Go program takes all that it is allowed: the limit above is the old one.
	before, err := exec.Command("prlimit", "--pid", pid, "--nofile", "--output", "HARD", "--noheadings").Output()
	if err != nil {
		return err
	}
	err = command("", "prlimit", "--pid", pid, fmt.Sprintf("--nofile=%d:", len(open)))
	n.hold(d)
	if _, gone := os.Stat(filepath.Join("/proc", pid)); gone != nil {
		return err // it has ended
	}
	return errors.Join(err, command("", "prlimit", "--pid", pid, "--nofile="+strings.TrimSpace(string(before))+":"))
}

// newCertificates gives all nodes new certificates, one after the other.
func (n *nemesis) newCertificates() error {
	n.say("all nodes get new certificates")
	for _, i := range n.shuffled() {
		if err := n.cluster.Recertify(n.cluster.Nodes[i]); err != nil {
			return err
		}
		if err := n.cluster.Nodes[i].Signal(syscall.SIGHUP); err != nil {
			return err
		}
		n.hold(n.between(0, 2))
		// Streams that are made anew meet the new certificate.
		if n.rng.IntN(2) == 0 {
			if err := n.restart(i, n.between(0, 1), nil); err != nil {
				return err
			}
		}
	}
	return nil
}
