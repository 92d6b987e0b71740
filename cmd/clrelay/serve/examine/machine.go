package examine

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clrelay/clrelay/internal/dnsx"
	"github.com/clrelay/clrelay/internal/doctor"
)

// disk is that of a folder.
type disk string

// Space is of doctor.Disk.
func (d disk) Space() (free, size uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(string(d), &st); err != nil {
		return 0, 0, err
	}
	return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), nil
}

// Sync is of doctor.Disk. The file has no name any more when it is written to:
// nothing is left of it, whatever happens.
func (d disk) Sync(ctx context.Context, n int) (took []time.Duration, err error) {
	f, err := os.CreateTemp(string(d), ".doctor-")
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // what it holds is of no use
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	block := make([]byte, 4096)
	for range n {
		if err := ctx.Err(); err != nil {
			return took, err
		}
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return took, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return took, err
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}

// clock is the kernel's.
type clock struct{}

// timeError is the kernel's word for a clock that nobody sets (adjtimex(2)).
const timeError = 5

// Synchronised is of doctor.Clock.
func (clock) Synchronised() (yes, known bool) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, false
	}
	return state != timeError && t.Status&unix.STA_UNSYNC == 0, true
}

// resolver is the relay's.
type resolver struct{ r *dnsx.Resolver }

// Exists is of doctor.DNS.
func (r resolver) Exists(ctx context.Context, name string) (bool, error) {
	_, err := r.r.LookupAddrs(ctx, name)
	if errors.Is(err, dnsx.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Addrs is of doctor.DNS.
func (r resolver) Addrs(ctx context.Context, name string) ([]netip.Addr, error) {
	return none(r.r.LookupAddrs(ctx, name))
}

// Names is of doctor.DNS.
func (r resolver) Names(ctx context.Context, a netip.Addr) ([]string, error) {
	return none(r.r.LookupPTR(ctx, a))
}

// none takes what does not exist for an answer.
func none[T any](list []T, err error) ([]T, error) {
	if errors.Is(err, dnsx.ErrNotFound) || errors.Is(err, dnsx.ErrName) {
		return nil, nil
	}
	return list, err
}

// network reaches others from this machine.
type network struct{}

func dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if at, ok := ctx.Deadline(); ok {
		err = conn.SetDeadline(at)
	}
	return conn, err
}

// Dial is of doctor.Net.
func (network) Dial(ctx context.Context, addr string) error {
	conn, err := dial(ctx, addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Greeting is of doctor.Net. Whose certificate is shown is not its question.
func (network) Greeting(ctx context.Context, addr string, implicit bool) (string, error) {
	conn, err := dial(ctx, addr)
	if err != nil {
		return "", err
	}
	defer conn.Close() //nolint:errcheck // what was to be heard was heard
	if implicit {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // no mail goes over it
	}
	line, err := bufio.NewReaderSize(conn, 1024).ReadString('\n')
	if line != "" {
		_, _ = conn.Write([]byte("QUIT\r\n")) // out of courtesy
		return strings.TrimSpace(line), nil
	}
	return "", err
}

// files are the descriptors of this process.
func files() (l doctor.Limit) {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil {
		l.Max = r.Cur
	}
	if list, err := os.ReadDir("/proc/self/fd"); err == nil {
		l.Used = uint64(len(list))
	}
	return l
}

// memory is the limit of the control group that this process is in (cgroup v2,
// as it sees it from within, or v1).
func memory() (l doctor.Limit) {
	dirs := []string{"/sys/fs/cgroup"}
	if text, err := os.ReadFile("/proc/self/cgroup"); err == nil {
		for line := range strings.SplitSeq(string(text), "\n") {
			if path, ok := strings.CutPrefix(line, "0::"); ok && path != "/" {
				dirs = append([]string{"/sys/fs/cgroup" + path}, dirs...)
			}
		}
	}
	for _, d := range dirs {
		if limit, ok := number(d + "/memory.max"); ok {
			used, _ := number(d + "/memory.current")
			return doctor.Limit{Used: uint64(used), Max: uint64(limit)}
		}
	}
	limit, ok := number("/sys/fs/cgroup/memory/memory.limit_in_bytes")
	if used, there := number("/sys/fs/cgroup/memory/memory.usage_in_bytes"); ok && there && limit < 1<<60 {
		return doctor.Limit{Used: uint64(used), Max: uint64(limit)}
	}
	return l
}

// number reads a file that holds one; "max" is none.
func number(path string) (int64, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}

// kernel gives the settings that matter to a busy relay.
func kernel(outgoing int) (out []doctor.Setting) {
	if n, ok := number("/proc/sys/net/core/somaxconn"); ok {
		out = append(out, doctor.Setting{Name: "net.core.somaxconn", Got: n, Want: 1024, Why: "clients that come at once wait in this queue; beyond it they are turned away"})
	}
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if f := strings.Fields(string(text)); err == nil && len(f) == 2 {
		from, err1 := strconv.ParseInt(f[0], 10, 64)
		to, err2 := strconv.ParseInt(f[1], 10, 64)
		if err1 == nil && err2 == nil && to-from < int64(outgoing) {
			out = append(out, doctor.Setting{Name: "net.ipv4.ip_local_port_range", Got: to - from, Want: int64(outgoing),
				Why: "each connection to a next hop needs a port (the range is given as two numbers)"})
		}
	}
	return out
}

// own is the address at which this machine reaches a listener of its own.
func own(a netip.AddrPort) string {
	switch ip := a.Addr(); {
	case !ip.IsValid(), ip == netip.IPv4Unspecified():
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.Port()).String()
	case ip == netip.IPv6Unspecified():
		return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port()).String()
	}
	return a.String()
}
