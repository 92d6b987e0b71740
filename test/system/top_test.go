package system

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// terminal is a command on a pseudo-terminal, and all that it has written.
type terminal struct {
	*os.File
	cmd *exec.Cmd

	mu   sync.Mutex
	text bytes.Buffer
	end  chan struct{}
}

func openTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 140})
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{File: f, cmd: cmd, end: make(chan struct{})}
	go func() {
		defer close(x.end)
		b := make([]byte, 4096)
		for {
			n, err := f.Read(b)
			x.mu.Lock()
			x.text.Write(b[:n])
			x.mu.Unlock()
			if err != nil { // EIO once the command has ended
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		f.Close()
		<-x.end
	})
	return x
}

var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]`)

// since gives what was written from an offset on, without what moves the
// cursor.
func (x *terminal) since(at int) (string, int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return escapes.ReplaceAllString(string(x.text.Bytes()[at:]), " "), x.text.Len()
}

// awaits waits until something is written, from an offset on. Only what differs
// is drawn, and all of it anew when the size has changed: so it is.
func (x *terminal) awaits(t *testing.T, at int, what string) int {
	t.Helper()
	var text string
	cols := uint16(140)
	redraw := time.NewTicker(400 * time.Millisecond)
	defer redraw.Stop()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); {
		var next int
		if text, next = x.since(at); strings.Contains(text, what) {
			return next
		}
		select {
		case <-x.end:
			if text, next = x.since(at); strings.Contains(text, what) { // its last words
				return next
			}
			t.Fatalf("ended without %q:\n%s", what, text)
		case <-redraw.C:
			cols ^= 1
			if err := pty.Setsize(x.File, &pty.Winsize{Rows: 40, Cols: cols}); err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("no %q in\n%s", what, text)
	return 0
}

func (x *terminal) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := io.WriteString(x, keys); err != nil {
		t.Fatal(err)
	}
}

// The screen shows who sends, follows the keys, and gives the terminal back.
func TestTopOnATerminal(t *testing.T) {
	sink := startSink(t, &peers.Sink{})
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(`senders:
  - {name: local, networks: [127.0.0.0/8]}
routes:
  - {match: {domains: [down.test]}, action: {smarthost: ["127.0.0.1:1"]}}
  - {match: {}, action: {smarthost: [%q]}}
`, sink.Addr())})
	for i := range 3 {
		if out, code := operate(t, r, "test", "send", "--from", "busy@a.test", "--to", fmt.Sprintf("x%d@b.test", i), "--wait"); code != 0 {
			t.Fatalf("code %d: %s", code, out)
		}
	}
	if out, code := operate(t, r, "test", "send", "--from", "rare@a.test", "--to", "x@down.test", "--wait"); code != 8 {
		t.Fatalf("code %d: %s", code, out)
	}
	cmd := exec.Command(binary(t), "top", "--every", "200ms")
	cmd.Env = append(os.Environ(), "CLRELAY_SOCKET="+filepath.Join(r.Data, "admin.sock"), "TERM=xterm-256color")
	x := openTerminal(t, cmd)
	at := x.awaits(t, 0, "busy@a.test")
	x.press(t, "d")
	at = x.awaits(t, at, "down.test")
	x.press(t, "r")
	at = x.awaits(t, at, "refused")
	x.press(t, "t")
	at = x.awaits(t, at, "smarthost:127.0.0.1:1")
	x.press(t, "w")
	at = x.awaits(t, at, "day")
	x.press(t, "c")
	at = x.awaits(t, at, "127.0.0.1")
	x.press(t, "p")
	at = x.awaits(t, at, "PAUSED")
	x.press(t, "q")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	<-x.end
	x.mu.Lock()
	left := x.text.String()[at:]
	x.mu.Unlock()
	if !strings.Contains(left, "\x1b[?1049l") || !strings.Contains(left, "\x1b[?25h") {
		t.Errorf("the terminal is left as it was: %q", left)
	}

	// Ctrl-C is an interruption, and takes the terminal back as well.
	cmd = exec.Command(binary(t), "top")
	cmd.Env = append(os.Environ(), "CLRELAY_SOCKET="+filepath.Join(r.Data, "admin.sock"), "TERM=xterm-256color")
	x = openTerminal(t, cmd)
	x.awaits(t, 0, "busy@a.test")
	x.press(t, "\x03")
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 {
		t.Errorf("Ctrl-C: %v", err)
	}

	out, code := operate(t, r, "top", "--once", "--by", "sender", "-o", "json")
	if code != 0 || !regexp.MustCompile(`(?s)"rows": \[\s*\{\s*"name": "busy@a.test",\s*"count": 3,`).MatchString(out) {
		t.Errorf("code %d: %s", code, out)
	}
}
