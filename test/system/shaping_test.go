package system

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// narrow is a mail host that bears so many connections and refuses all others
// with 421. It takes its time for a message.
type narrow struct {
	bears   int64
	ln      net.Listener
	wg      sync.WaitGroup
	open    atomic.Int64
	refused atomic.Int64
	served  atomic.Int64
}

func startNarrow(t *testing.T, bears int64) *narrow {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &narrow{bears: bears, ln: ln}
	n.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			n.wg.Go(func() { n.serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close() })
	return n
}

func (n *narrow) serve(c net.Conn) {
	defer c.Close()
	if n.open.Add(1) > n.bears {
		n.open.Add(-1)
		n.refused.Add(1)
		fmt.Fprint(c, "421 4.7.0 narrow.test Error: too many connections\r\n")
		return
	}
	defer n.open.Add(-1)
	fmt.Fprint(c, "220 narrow.test\r\n")
	for in := bufio.NewScanner(c); in.Scan(); {
		switch verb := strings.ToUpper(strings.Fields(in.Text() + " x")[0]); verb {
		case "EHLO":
			fmt.Fprint(c, "250-narrow.test\r\n250 8BITMIME\r\n")
		case "DATA":
			fmt.Fprint(c, "354 go on\r\n")
			for in.Scan() && in.Text() != "." {
			}
			<-time.After(50 * time.Millisecond) // a host of its own speed
			n.served.Add(1)
			fmt.Fprint(c, "250 2.0.0 taken\r\n")
		case "QUIT":
			fmt.Fprint(c, "221 2.0.0 bye\r\n")
			return
		default:
			fmt.Fprint(c, "250 2.0.0 ok\r\n")
		}
	}
}

const shapingYAML = `senders: [{name: test, networks: [127.0.0.0/8]}]
routes:
  - {match: {domains: [narrow.test]}, action: {smarthost: ["%s"]}}
  - {match: {}, action: {smarthost: ["%s"]}}
queue: {retry: [1s, 2s, 4s]}
`

// learnedOf gives how many connections a node knows the narrow host to bear;
// 0: it knows nothing.
func learnedOf(r *relayproc.Relay) int64 {
	out, _, _ := r.CLI("limit", "list", "--origin", "learned", "-o", "json")
	var list []struct {
		Name        string `json:"name"`
		Connections int64  `json:"connections"`
	}
	if json.Unmarshal([]byte(out), &list) != nil {
		return 0
	}
	for _, l := range list {
		if strings.HasPrefix(l.Name, "shaping:127.0.0.2") {
			return l.Connections
		}
	}
	return 0
}

// TestShapingFindsTheNumber: a destination that answers 421 to more than 3
// connections is found, by three nodes together, and served at its pace within
// a minute, while another destination gets its mail as if nothing were.
func TestShapingFindsTheNumber(t *testing.T) {
	t.Parallel()
	few := startNarrow(t, 3)
	wide := startSink(t, &peers.Sink{})
	c, err := relayproc.NewCluster(relayproc.ClusterOptions{Binary: binary(t), Dir: workDir(t), Nodes: 3, Cluster: fmt.Sprintf(shapingYAML, few.ln.Addr(), wide.Addr())})
	if err != nil {
		t.Fatal(err)
	}
	(&fleet{Cluster: c}).stopAtEnd(t)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const each, others = 400, 50
	var group sync.WaitGroup
	for _, r := range c.Nodes {
		group.Go(func() {
			s := &peers.Source{Addr: r.SMTP, Sessions: 4, Reuse: true, Rcpt: func(seq int64) string { return fmt.Sprintf("u%d@narrow.test", seq) }}
			if sent := s.Run(t.Context(), 0, each); len(sent.Accepted) != each {
				t.Errorf("%d of %d were taken", len(sent.Accepted), each)
			}
		})
	}
	began := time.Now()
	eventually(t, time.Minute, "it is learned at every node", func() bool {
		for _, r := range c.Nodes {
			if n := learnedOf(r); n < 2 || n > 4 {
				return false
			}
		}
		return few.served.Load() > 50
	})
	t.Logf("learned %d after %v, with %d refusals", learnedOf(c.Nodes[2]), time.Since(began).Round(100*time.Millisecond), few.refused.Load())
	group.Wait()

	s := &peers.Source{Addr: c.Nodes[1].SMTP, Sessions: 2, Reuse: true, Rcpt: func(seq int64) string { return fmt.Sprintf("u%d@wide.test", seq) }}
	s.Run(t.Context(), 100_000, others)
	eventually(t, 10*time.Second, "other mail is not held up", func() bool { return wide.Messages() >= others })
	if out, errs, code := c.Nodes[0].CLI("limit", "explain", "a@narrow.test"); code != 0 || !strings.Contains(out, "shaping:127.0.0.2") {
		t.Errorf("explain: exit code %d, %s%s", code, out, errs)
	}

	refused, served, from := few.refused.Load(), few.served.Load(), time.Now()
	eventually(t, 2*time.Minute, "all of it arrives", func() bool { return few.served.Load() >= 3*each })
	took := time.Since(from)
	t.Logf("then %d messages in %v, with %d refusals", few.served.Load()-served, took.Round(100*time.Millisecond), few.refused.Load()-refused)
	if more := few.refused.Load() - refused; more > 20 {
		t.Errorf("%d refusals after the number was known", more)
	}
}

// What an operator lifts moves at once, in both of its ways: the limit is
// cleared, or is another one.
func TestWhatIsLiftedMoves(t *testing.T) {
	t.Parallel()
	sink := startSink(t, &peers.Sink{})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf("senders: [{name: test, networks: [127.0.0.0/8]}]\nroutes: [{match: {}, action: {smarthost: [%q]}}]\n", sink.Addr())})
	stopped := func() {
		t.Helper()
		say(t, r, "limit", "set", "stop", "--domain", "sink.test", "--suspend", "--for", "1h", "--reason", "INC-1")
	}
	for i, lift := range [][]string{
		{"limit", "clear", "stop", "--reason", "done"},
		{"limit", "set", "stop", "--domain", "sink.test", "--rate", "100/s", "--for", "1h", "--reason", "slowly"},
	} {
		seq := int64(i)
		stopped()
		src := &peers.Source{Addr: r.SMTP, Sessions: 1}
		if sent := src.Run(t.Context(), seq, 1); len(sent.Accepted) != 1 {
			t.Fatal(sent.LastErr)
		}
		eventually(t, 20*time.Second, "it waits for the limit", func() bool {
			out, _, _ := r.CLI("queue", "list")
			return strings.Contains(out, "suspended by stop")
		})
		say(t, r, lift...)
		eventually(t, 15*time.Second, strings.Join(lift, " ")+" moves it", func() bool { return len(sink.Times(seq)) > 0 })
	}
}
