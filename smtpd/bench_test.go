package smtpd_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/smtpd"
	"github.com/clrelay/clrelay/smtpd/policy"
)

// sink reads contents as a spool would, and keeps nothing.
type sink struct{ bufs *sync.Pool }

func (s sink) Accept(_ context.Context, _ *mail.Envelope, body io.Reader) error {
	buf := s.bufs.Get().(*[64 << 10]byte)
	defer s.bufs.Put(buf)
	for {
		if _, err := body.Read(buf[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// cpu gives the processor time of the process.
func cpu() time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkMessage sends whole messages on a kept session over loopback. The
// metric cpu-us/op is the processor time of both ends.
func BenchmarkMessage(b *testing.B) {
	chain, err := policy.New(policy.Options{Hostname: "mx.test", Domains: []string{localDomain}})
	if err != nil {
		b.Fatal(err)
	}
	srv, err := smtpd.New(smtpd.Options{Hostname: "mx.test", Acceptor: sink{&sync.Pool{New: func() any { return new([64 << 10]byte) }}}, Policy: chain})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = srv.Serve(l, smtpd.Listener{}) }()
	b.Cleanup(func() { _ = srv.Shutdown(context.Background()) })
	for _, size := range []int{2 << 10, 10 << 10, 100 << 10, 1 << 20} {
		for _, mode := range []string{"data", "pipelined", "bdat"} {
			b.Run(fmt.Sprintf("%dK/%s", size>>10, mode), func(b *testing.B) { benchSession(b, l.Addr().String(), size, mode) })
		}
	}
}

func benchSession(b *testing.B, addr string, size int, mode string) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 4096)
	talk := func(send []byte, end string) {
		if len(send) > 0 {
			if _, err := conn.Write(send); err != nil {
				b.Fatal(err)
			}
		}
		n := 0
		for !bytes.Contains(buf[:n], []byte(end)) {
			k, err := conn.Read(buf[n:])
			if err != nil {
				b.Fatal(err)
			}
			n += k
		}
	}
	line := bytes.Repeat([]byte{'x'}, 74)
	body := append([]byte("Subject: x\r\n\r\n"), bytes.Repeat(append(line, '\r', '\n'), size/76)...)
	mailCmd, rcptCmd := []byte("MAIL FROM:<sender@client.test> SIZE=10000 BODY=8BITMIME\r\n"), []byte("RCPT TO:<b@example.edu>\r\n")
	group := append(append(append([]byte(nil), mailCmd...), rcptCmd...), "DATA\r\n"...)
	dotted := append(append([]byte(nil), body...), ".\r\n"...)
	bdat := append(append(append(append([]byte(nil), mailCmd...), rcptCmd...), fmt.Sprintf("BDAT %d LAST\r\n", len(body))...), body...)
	talk(nil, "220 ")
	talk([]byte("EHLO client.test\r\n"), "LIMITS")
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	before := cpu()
	for b.Loop() {
		switch mode {
		case "data":
			talk(mailCmd, "\r\n")
			talk(rcptCmd, "\r\n")
			talk([]byte("DATA\r\n"), "354 ")
			talk(dotted, "queued")
		case "pipelined":
			talk(group, "354 ")
			talk(dotted, "queued")
		case "bdat":
			talk(bdat, "queued")
		}
	}
	b.ReportMetric(float64((cpu()-before).Nanoseconds())/1000/float64(b.N), "cpu-us/op")
	talk([]byte("QUIT\r\n"), "221 ")
}
