package system

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// TestCompaction: a few messages that wait do not keep the space of the many
// that went by, and are whole after it was given back under them.
func TestCompaction(t *testing.T) {
	t.Parallel()
	binary(t)
	sink := startSink(t, &peers.Sink{})
	var open atomic.Bool
	hop := startHop(t, &peers.Hop{Answer: func(line string) string {
		if strings.HasPrefix(line, "RCPT") && !open.Load() {
			return "450 4.2.0 Later"
		}
		return ""
	}})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(hopsYAML,
		route("sink.test", smarthost(sink.Addr(), ""))+route("wait.test", smarthost(hop.Addr(), "")), identity(t, "x").Cert)})
	want := map[string]string{}
	passed := 0
	for i := range 16 { // one that waits after every 40 MB
		sender := fmt.Sprintf("w%d@client.test", i)
		want[sender] = note(sender) + strings.Repeat(fmt.Sprintf("message %d waits and is not small\r\n", i), 3000)
		submit(t, r.SMTP, sender, "later@wait.test", want[sender])
		src := &peers.Source{Addr: r.SMTP, Sessions: 8, Reuse: true, Size: 1 << 20}
		if sent := src.Run(t.Context(), int64(i)*1000, 40); sent.Errors != 0 {
			t.Fatal(sent.LastErr)
		}
		passed += 40
		eventually(t, time.Minute, "the others went by", func() bool { return sink.Messages() == int64(passed) })
	}
	eventually(t, 20*time.Second, "all that wait are held", func() bool {
		_, _, code := r.CLI("queue", "hold", "--domain", "wait.test") // not while one is being tried
		return code == 0
	})
	eventually(t, 30*time.Second, "the space is given back", func() bool {
		n, err := r.Metric("clrelay_spool_bytes") // without files that are empty and kept for use again
		return err == nil && n > 0 && n <= 4*64<<20
	})
	r.Kill()
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	open.Store(true)
	cli(t, r, 0, "queue", "release", "--everything")
	eventually(t, 30*time.Second, "all that waited are there", func() bool { return len(hop.Mails()) >= len(want) })
	for _, m := range hop.Mails() {
		sameContent(t, m.Data, want[m.Sender()])
	}
	emptyQueue(t, r, 10*time.Second)
	if n := len(hop.Mails()); n != len(want) {
		t.Errorf("%d messages came that had waited, want %d", n, len(want))
	}
	balanced(t, r)
}
