package system

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/clrelay/clrelay/test/relayproc"
)

// exitOf waits for the end of what runs on a terminal.
func (x *terminal) exitOf(t *testing.T) int {
	t.Helper()
	<-x.end
	_ = x.cmd.Wait() // the code says it
	return x.cmd.ProcessState.ExitCode()
}

// TestPrompts: on a terminal a command that ends mail counts first and wants
// the number typed; another answer, and Ctrl-C, change nothing.
func TestPrompts(t *testing.T) {
	r := startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(toSink, "127.0.0.1:1")})
	for i := range 3 {
		submit(t, r.SMTP, fmt.Sprintf("s%d@client.test", i), "u@down.test", note("s"))
	}
	drop := func() *terminal {
		cmd := exec.Command(binary(t), "queue", "drop", "--domain", "down.test", "--reason", "typed")
		cmd.Env = append(os.Environ(), "CLRELAY_SOCKET="+filepath.Join(r.Data, "admin.sock"))
		x := openTerminal(t, cmd)
		x.awaits(t, 0, "This would drop 3 recipients of 3 messages")
		x.awaits(t, 0, "Type the number of recipients to go on:")
		return x
	}
	left := func(want int64) {
		t.Helper()
		if s := summaryOf(t, r); s.Recipients != want {
			t.Errorf("%d recipients are left, want %d", s.Recipients, want)
		}
	}
	x := drop()
	x.press(t, "4\n")
	if code := x.exitOf(t); code != 6 {
		t.Errorf("another number: code %d", code)
	}
	left(3)
	x = drop()
	if err := x.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	x.press(t, "\n") // whoever is asked hears of it with the answer
	if code := x.exitOf(t); code != 130 && code != 6 {
		t.Errorf("Ctrl-C: code %d", code)
	}
	left(3)
	x = drop()
	x.press(t, "3\n")
	x.awaits(t, 0, "dropped 3 recipients of 3 messages")
	if code := x.exitOf(t); code != 0 {
		t.Errorf("the number: code %d", code)
	}
	left(0)
}
