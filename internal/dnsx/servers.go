package dnsx

import (
	"bufio"
	"bytes"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxServers bounds how many servers are used.
const maxServers = 8

// A server that did not answer is asked last for some time, which doubles with
// each further failure.
const (
	shunMin = 10 * time.Second
	shunMax = 5 * time.Minute
)

// recheck is how often the system's file is looked at for a change.
const recheck = 5 * time.Second

// server is a resolver and what is known about it.
type server struct {
	addr    netip.AddrPort
	trusted bool // its AD flag is believed

	failures int       // in a row, guarded by servers.mu
	shunned  time.Time // until then; guarded by servers.mu
}

// servers are the resolvers, given or read from the system's file. Safe for
// concurrent use.
type servers struct {
	file string // empty when they were given

	mu      sync.Mutex
	list    []*server
	turn    int // who is asked first next time
	checked time.Time
	mtime   time.Time
	size    int64
}

func newServers(o Options) *servers {
	s := &servers{file: o.ResolvConf}
	for _, addr := range o.Servers[:min(len(o.Servers), maxServers)] {
		s.list = append(s.list, &server{addr: addr, trusted: o.TrustAD || addr.Addr().IsLoopback()})
		s.file = ""
	}
	return s
}

// inTurn lists the servers in the order in which they are to be asked: the
// good ones, beginning with another one each time, then the shunned ones, the
// one whose time ends first in front.
func (s *servers) inTurn(now time.Time) []*server {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reread(now)
	var good, bad []*server
	for _, sv := range s.list {
		if now.Before(sv.shunned) {
			bad = append(bad, sv)
		} else {
			good = append(good, sv)
		}
	}
	if n := len(good); n > 1 {
		s.turn++
		good = slices.Concat(good[s.turn%n:], good[:s.turn%n])
	}
	slices.SortStableFunc(bad, func(a, b *server) int { return a.shunned.Compare(b.shunned) })
	return append(good, bad...)
}

// answered notes that a server works.
func (s *servers) answered(sv *server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sv.failures, sv.shunned = 0, time.Time{}
}

// silent notes that a server did not answer, or cannot be reached.
func (s *servers) silent(sv *server, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(sv.shunned) {
		return // the questions that were under way at the first failure count once
	}
	sv.shunned = now.Add(min(shunMin<<min(sv.failures, 10), shunMax))
	sv.failures++
}

// reread reads the system's file when it changed. A file that cannot be read
// changes nothing, or stands for a resolver on this machine at the start.
func (s *servers) reread(now time.Time) {
	if s.file == "" || len(s.list) > 0 && now.Sub(s.checked) < recheck {
		return
	}
	s.checked = now
	fi, err := os.Stat(s.file)
	if err == nil && (len(s.list) == 0 || !fi.ModTime().Equal(s.mtime) || fi.Size() != s.size) {
		var text []byte
		if text, err = readFile(s.file); err == nil {
			s.mtime, s.size = fi.ModTime(), fi.Size()
			s.list = parseResolvConf(text)
		}
	}
	if len(s.list) == 0 {
		s.list = localResolver()
	}
}

// readFile reads what may be of interest of the file.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it is only read
	return io.ReadAll(io.LimitReader(f, 1<<16))
}

// localResolver is what resolv.conf(5) says about a file without servers.
func localResolver() []*server {
	return []*server{{addr: netip.MustParseAddrPort("127.0.0.1:53")}}
}

// parseResolvConf reads nameserver lines and the option trust-ad, without which
// the AD flag of the system's resolvers says nothing (resolv.conf(5)).
func parseResolvConf(text []byte) []*server {
	var list []*server
	trusted := false
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if addr, err := netip.ParseAddr(words[1]); err == nil && len(list) < maxServers {
				list = append(list, &server{addr: netip.AddrPortFrom(addr.Unmap(), 53)})
			}
		case "options":
			trusted = trusted || slices.Contains(words[1:], "trust-ad")
		}
	}
	for _, sv := range list {
		sv.trusted = trusted
	}
	return list
}
