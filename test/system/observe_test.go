package system

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// TestMetrics: every name of the contract is there, and counts what happened.
func TestMetrics(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{Answer: fussy})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(strings.Replace(toSink, "[1s, 2s, 5s]", "[1h]", 1), hop.Addr())})
	c := greeted(t, r.SMTP)
	c.envelope("<a@client.test>", "<ok@x.test>", "<unknown@x.test>", "<later@x.test>", "<ok2@x.test>")
	c.data(note("all fates"))
	reportAt(t, hop, "a@client.test")
	value := func(name string) float64 {
		n, err := r.Metric(name)
		if err != nil {
			return -1
		}
		return n
	}
	for name, want := range map[string]float64{
		"clrelay_messages_accepted_total":                     2, // and the report
		"clrelay_recipients_delivered_total":                  3, // the report is one
		"clrelay_recipients_bounced_total":                    1,
		`clrelay_delivery_attempts_total{result="delivered"}`: 3,
		`clrelay_delivery_attempts_total{result="deferred"}`:  1,
		`clrelay_delivery_attempts_total{result="bounced"}`:   1,
		`clrelay_queue_recipients{state="active"}`:            0,
		`clrelay_queue_recipients{state="deferred"}`:          1,
		`clrelay_queue_recipients{state="held"}`:              0,
		"clrelay_accept_duration_seconds_count":               1,
		"clrelay_possible_duplicates_total":                   0,
		"clrelay_under_replicated_segments":                   0,
		"clrelay_ledger_imbalance_messages":                   0,
		"clrelay_takeovers_total":                             0,
	} {
		eventually(t, 5*time.Second, fmt.Sprintf("%s is %v, not %v", name, want, value(name)), func() bool { return value(name) == want })
	}
	if n := value("clrelay_fsync_duration_seconds_count"); n < 1 {
		t.Errorf("%v syncs were counted", n)
	}
	if _, body := r.Get("/metrics"); !strings.Contains(body, `clrelay_segments{role=`) {
		t.Error("no clrelay_segments{role,state}")
	}
}

// TestJSONLog: with log.format json every line is an object, and the events of
// a message's life share its ID.
func TestJSONLog(t *testing.T) {
	t.Parallel()
	hop := startHop(t, &peers.Hop{})
	r := startRelay(t, relayproc.Options{Node: "log: {format: json}\n", Cluster: fmt.Sprintf(toSink, hop.Addr())})
	id := submit(t, r.SMTP, "a@client.test", "u@x.test", note("in JSON"))
	events := map[string]bool{}
	eventually(t, 10*time.Second, "the message's life is in the log", func() bool {
		f, err := os.Open(r.LogPath())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan(); {
			var line struct{ ID, Event, From, To, Relay string }
			if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
				t.Fatalf("%q: %v", sc.Text(), err)
			}
			if line.ID == id {
				events[line.Event] = true
			}
		}
		return events["accepted"] && events["delivered"]
	})
}

// TestNotify: systemd hears when the relay is ready, reloads and stops.
func TestNotify(t *testing.T) {
	t.Parallel()
	binary(t)
	dir, err := os.MkdirTemp("/tmp", "clrelay-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	addr := &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}
	sock, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	hear := func(want string) {
		t.Helper()
		if err := sock.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for buf := make([]byte, 4096); ; {
			n, err := sock.Read(buf)
			if err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			for line := range strings.SplitSeq(string(buf[:n]), "\n") {
				if line == want {
					return
				}
			}
		}
	}
	r := startRelay(t, relayproc.Options{Env: []string{"NOTIFY_SOCKET=" + addr.Name}})
	hear("READY=1")
	if err := r.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	hear("RELOADING=1")
	hear("READY=1")
	if err := r.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hear("STOPPING=1")
}

// TestHuge: messages of 100 MB pass through in bounded memory.
func TestHuge(t *testing.T) {
	t.Parallel()
	sink := startSink(t, &peers.Sink{})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(strings.Replace(toSink, "receive: {", "receive: {max_size: 110MiB, ", 1), sink.Addr())})
	const size, n = 100 << 20, 4
	src := &peers.Source{Addr: r.SMTP, Sessions: n, Reuse: true, Size: size, Timeout: 2 * time.Minute}
	if sent := src.Run(t.Context(), 0, n); sent.Errors != 0 {
		t.Fatal(sent.LastErr)
	}
	eventually(t, 2*time.Minute, "all are there", func() bool { return sink.Messages() == n })
	if got := sink.Octets(); got < n*size || got > n*(size+2000) {
		t.Errorf("%d octets came out", got)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.PID()))
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(text)) {
		var kb int
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			t.Logf("most memory: %d MB", kb>>10)
			if kb > 400<<10 {
				t.Errorf("%d MB of memory for %d messages of %d MB", kb>>10, n, size>>20)
			}
		}
	}
}
