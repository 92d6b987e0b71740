package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// clockTick is USER_HZ, the unit of CPU times in /proc; Linux fixes it at 100
// for every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

func cpus() string { return fmt.Sprintf("%d cores", runtime.NumCPU()) }

// cpuTimes is the CPU time of the machine so far: in all, and what a hypervisor
// gave to others while it was wanted here.
func cpuTimes() (all, stolen time.Duration) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	const steal, guest = 8, 9 // fields of proc(5); guest time is counted elsewhere too
	for i, f := range strings.Fields(line) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil || i >= guest {
			continue // the first field is a name
		}
		all += time.Duration(n) * clockTick
		if i == steal {
			stolen = time.Duration(n) * clockTick
		}
	}
	return all, stolen
}

// stat is what is wanted of /proc/PID/stat.
type stat struct {
	pid, parent int
	own, reaped time.Duration // of itself; of its children that ended and were waited for
}

func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The second field is the command in parentheses and may hold blanks.
	i := strings.LastIndexByte(string(text), ')')
	f := strings.Fields(string(text[i+1:]))
	if len(f) < 15 {
		return stat{}, fmt.Errorf("/proc/%d/stat is short", pid)
	}
	var n [15]int64
	for i, s := range f[:15] {
		n[i], _ = strconv.ParseInt(s, 10, 64) // the state is a letter and is not used
	}
	tick := func(i int) time.Duration { return time.Duration(n[i]) * clockTick }
	return stat{pid: pid, parent: int(n[1]), own: tick(11) + tick(12), reaped: tick(13) + tick(14)}, nil
}

// tree gives root and all its descendants.
func tree(root int) []stat {
	byParent := map[int][]stat{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var out []stat
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			continue
		}
		st, err := readStat(pid)
		if err != nil {
			continue // ended meanwhile
		}
		if pid == root {
			out = append(out, st)
		}
		byParent[st.parent] = append(byParent[st.parent], st)
	}
	for i := 0; i < len(out); i++ {
		out = append(out, byParent[out[i].pid]...)
	}
	return out
}

// treeUsage sums CPU time and proportional set size over a process tree.
func treeUsage(root int) (cpu time.Duration, pss int64) {
	for _, st := range tree(root) {
		cpu += st.own + st.reaped
		pss += readPSS(st.pid)
	}
	return cpu, pss
}

func readPSS(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n * 1024
		}
	}
	return 0
}
