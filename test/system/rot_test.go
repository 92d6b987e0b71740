package system

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestClusterDamageOnOneDisk: content that rots on its owner's disk while it
// waits is delivered from another node's copy, and nothing goes back to a
// sender.
func TestClusterDamageOnOneDisk(t *testing.T) {
	t.Parallel()
	const messages, spoiled = 40, 3
	f := openFleet(t, 3)
	f.away.Store(true)
	r := f.Nodes[0]
	if sent := f.load(t.Context(), r, 4, messages); sent.Errors != 0 {
		t.Fatal(sent.LastErr)
	}
	eventually(t, 10*time.Second, "all are tried", func() bool {
		n, err := r.Metric(`clrelay_queue_recipients{state="deferred"}`)
		return err == nil && n == messages
	})
	names, err := filepath.Glob(filepath.Join(r.Data, "log", "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; done < spoiled; done++ {
			i := bytes.Index(text[at:], []byte("\r\nSubject: message "))
			if i < 0 {
				break
			}
			at += i + 20
			flip(t, name, at)
		}
	}
	if done != spoiled {
		t.Fatalf("%d messages were found in %q", done, names)
	}
	f.settle(t, time.Minute)
	if _, twice := f.missing(); twice != 0 {
		t.Errorf("%d arrived twice", twice)
	}
	for _, x := range f.Nodes {
		if n, err := x.Metric("clrelay_recipients_bounced_total"); err != nil || n != 0 {
			t.Errorf("%s returned %v (%v)", filepath.Base(x.Dir), n, err)
		}
	}
	if log := r.Log(); !strings.Contains(log, "the content of a message is damaged") || !strings.Contains(log, "another_node_delivers=true") {
		// On a machine so slow that the lease ran out another node delivers, and nobody reads the damaged copy.
		if f.takeovers() == 0 {
			t.Error("the node says nothing of the damage")
		}
	}
	for i, x := range f.Nodes {
		eventually(t, 10*time.Second, fmt.Sprintf("the ledger of node %d is even", i), func() bool {
			n, err := x.Metric("clrelay_ledger_imbalance_messages")
			return err == nil && n == 0
		})
	}
}
