package delivery_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/internal/mail"
)

// sink is a server that does as little as can be done: it reads in bulk and
// looks at the end of what it has read.
func sink(tb testing.TB, conf *tls.Config, chunking bool) *net.TCPAddr {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				if conf != nil {
					c = tls.Server(c, conf)
				}
				drink(c, chunking)
			})
		}
	})
	tb.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr)
}

func drink(c net.Conn, chunking bool) {
	say := func(s string) bool { _, err := io.WriteString(c, s); return err == nil }
	caps := "250-sink\r\n250-SIZE\r\n250 PIPELINING\r\n"
	if chunking {
		caps = "250-sink\r\n250-CHUNKING\r\n250 PIPELINING\r\n"
	}
	buf, scratch := make([]byte, 256<<10), make([]byte, 64<<10)
	if !say("220 sink\r\n") {
		return
	}
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		switch p := buf[:n]; {
		case bytes.HasPrefix(p, []byte("EHLO")):
			say(caps)
		case bytes.HasPrefix(p, []byte("QUIT")):
			say("221 bye\r\n")
			return
		case bytes.HasSuffix(p, []byte("DATA\r\n")):
			say("250 ok\r\n250 ok\r\n354 go\r\n")
			for {
				if n, err = c.Read(buf); err != nil {
					return
				}
				if bytes.HasSuffix(buf[:n], []byte("\r\n.\r\n")) || n < 5 {
					break
				}
			}
			say("250 2.0.0 Ok: queued as 01JXYZ\r\n")
		case bytes.HasPrefix(p, []byte("MAIL")):
			say("250 ok\r\n250 ok\r\n")
		case bytes.HasPrefix(p, []byte("BDAT")):
			if !swallow(c, p, scratch, say) {
				return
			}
		}
	}
}

// swallow takes chunks until the last.
func swallow(c net.Conn, p, buf []byte, say func(string) bool) bool {
	for {
		var size int
		line, rest, _ := bytes.Cut(p, []byte("\r\n"))
		if _, err := fmt.Sscanf(string(line), "BDAT %d", &size); err != nil {
			return false
		}
		last := bytes.HasSuffix(line, []byte("LAST"))
		for len(rest) < size {
			n, err := c.Read(buf[:min(len(buf), size-len(rest))])
			if err != nil {
				return false
			}
			size -= n
		}
		if !say("250 2.0.0 Ok\r\n") || last {
			return last
		}
		if p = rest[size:]; len(p) == 0 {
			n, err := c.Read(buf)
			if err != nil {
				return false
			}
			p = buf[:n]
		}
	}
}

// BenchmarkDeliver sends one message after another over a kept connection.
// cpu-µs/op is what this process took for both sides, kernel and all.
func BenchmarkDeliver(b *testing.B) {
	conf, roots := certificate(b, "127.0.0.1")
	line := strings.Repeat("x", 76) + "\r\n"
	for _, size := range []int{2 << 10, 10 << 10, 100 << 10, 1 << 20} {
		for _, how := range []string{"DATA", "BDAT", "TLS"} {
			b.Run(fmt.Sprintf("%dKB/%s", size>>10, how), func(b *testing.B) {
				var c *tls.Config
				hop := mail.NextHop{Kind: mail.HopSmarthost}
				if how == "TLS" {
					c, hop.TLS = conf, mail.TLSVerify
				}
				addr := sink(b, c, how == "BDAT")
				port := uint16(addr.Port)
				o := delivery.Options{RootCAs: roots, Limits: delivery.Limits{ConnMessages: 1 << 30}}
				if how == "TLS" { // from the start, which a port says
					port = 465
					o.Dial = redirect(addr)
				}
				hop.Hosts = []mail.HostPort{{Name: "127.0.0.1", Port: port}}
				a := agent(b, o)
				body := "A: b\r\n\r\n" + strings.Repeat(line, size/len(line))
				at := message(body, "a")
				at.BeforeDot = func() error { return nil }
				send := func() {
					if out := a.Deliver(b.Context(), hop, at); out[0].Reply.Code != 250 {
						b.Fatal(out[0].Reply.Error())
					}
				}
				send()
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				before := cpu()
				for b.Loop() {
					send()
				}
				b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

func cpu() time.Duration {
	var ru syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &ru) != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// redirect dials addr whatever it is told.
func redirect(addr *net.TCPAddr) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr.String())
	}
}
