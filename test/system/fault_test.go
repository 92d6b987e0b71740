package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// TestDiskFault makes a system call of the relay fail once, with strace. From
// then on nothing can be trusted: the process has to end, and must not answer
// 250 to anything that is not there after the next start.
func TestDiskFault(t *testing.T) {
	need(t, "strace")
	binary(t)
	if err := exec.Command("strace", "-qq", "-o", "/dev/null", "true").Run(); err != nil {
		t.Skipf("strace does not work here: %v", err)
	}
	for _, c := range []struct{ name, inject string }{
		{"fsync, once", "fdatasync,fsync:error=EIO:when=60"},
		{"fsync, from then on", "fdatasync,fsync:error=EIO:when=20+"},
		{"fsync, no space", "fdatasync,fsync:error=ENOSPC:when=40"},
		{"write, once", "pwritev,pwritev2,pwrite64:error=EIO:when=90"},
		{"write, no space", "pwritev,pwritev2,pwrite64:error=ENOSPC:when=70+"},
		{"fsync hangs", "fdatasync:delay_enter=9000000:when=60"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			diskFault(t, c.inject)
		})
	}
}

func diskFault(t *testing.T, inject string) {
	b := openBooks(t, relayproc.Options{})
	b.away.Store(true)
	// One healthy life, so that the faults do not hit while the store is made.
	if sent := b.src.Run(t.Context(), 0, 20); sent.Errors != 0 {
		t.Fatal(sent.LastErr)
	} else {
		b.accepted, b.next = sent.Accepted, 1000
	}
	// Nor while spare files are filled, which is no fault of what was taken.
	spares := func() bool {
		names, err := filepath.Glob(filepath.Join(b.relay.Data, "log", "*.wal"))
		return err == nil && len(names) == 3
	}
	eventually(t, time.Minute, "there are two spare files", spares)
	if err := b.relay.Stop(); err != nil {
		t.Fatal(err)
	}
	calls, _, _ := strings.Cut(inject, ":")
	trace := filepath.Join(b.relay.Dir, "strace")
	b.relay.Wrap("strace", "-f", "-qq", "-o", trace, "-e", "trace="+calls, "-e", "inject="+inject)
	if err := b.relay.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan *peers.Sent, 1)
	go func() { done <- b.src.Run(ctx, b.next, 1_000_000) }()
	select {
	case <-b.relay.Exited():
	case <-ctx.Done():
		b.relay.Kill()
		t.Fatalf("the relay went on\n%s", b.relay.Tail())
	}
	cancel()
	b.accepted = append(b.accepted, (<-done).Accepted...)
	if code := b.relay.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	log := slogOnly(fullLog(t, b.relay))
	if strings.Contains(inject, "delay") {
		if !strings.Contains(log, "no answer from the disk") {
			t.Errorf("the log does not say what happened:\n%s", log)
		}
	} else if text, err := os.ReadFile(trace); err != nil || !strings.Contains(string(text), "INJECTED") {
		t.Fatalf("strace injected nothing (%v): this proves nothing", err)
	}
	if !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "spool") {
		t.Errorf("the log does not say what happened:\n%s", log)
	}
	b.relay.Wrap()
	b.restart(t)
	b.check(t, 20)
	// The relay is whole again.
	if sent := b.src.Run(t.Context(), 5_000_000, 20); sent.Errors != 0 {
		t.Error(sent.LastErr)
	}
}

// TestDiskFull: on a full disk mail is refused for now, results of what is
// queued are still recorded, and room makes it well again.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	binary(t)
	dir := workDir(t)
	d := newDisk(t, dir, 512<<20)
	b := openBooks(t, relayproc.Options{Dir: filepath.Join(dir, "relay"), Data: filepath.Join(d.Dir, "data")})
	r := b.relay
	b.away.Store(true)
	sent := b.src.Run(t.Context(), 0, 1000)
	if sent.Errors != 0 {
		t.Fatal(sent.LastErr)
	}
	b.accepted = sent.Accepted
	// Filling goes on until the relay has noticed: it may give back files of its
	// log meanwhile, and ext4 counts what was freed as free before it can be had.
	full := func() {
		t.Helper()
		if err := d.Fill(0); err != nil {
			t.Fatal(err)
		}
	}
	refused := func() string {
		c := greeted(t, r.SMTP)
		defer c.conn.Close()
		c.send("MAIL FROM:<a@client.test>\r\n")
		text, err := c.reply()
		if err != nil || !strings.HasPrefix(text, "250 ") {
			return text
		}
		c.do("RCPT TO:<u@x.test>", "250 ")
		c.do("DATA", "354 ")
		c.send(string(peers.Stuff([]byte(note("no room")))))
		text, err = c.reply()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	var text string
	eventually(t, 20*time.Second, "mail is refused", func() bool { full(); text = refused(); return !strings.HasPrefix(text, "250 ") })
	if !strings.HasPrefix(text, "452 4.3.1 ") {
		t.Errorf("the reply is %q", text)
	}
	eventually(t, 20*time.Second, "it is not ready", func() bool { full(); code, _ := r.Get("/readyz"); return code == 503 })
	if code, _ := r.Get("/livez"); code != 200 {
		t.Errorf("/livez %d", code)
	}
	// What is queued goes out, and stays out.
	b.away.Store(false)
	r.CLI("queue", "retry", "--everything") // some may just be tried, which is as well
	eventually(t, 30*time.Second, "the queue is delivered", func() bool { return summary(t, r).Messages == 0 })
	r.Kill()
	if err := r.Launch(); err != nil {
		t.Fatal(err)
	}
	if err := r.AwaitUp(t.Context()); err != nil { // not ready: it may have no room
		t.Fatal(err)
	}
	b.reborn(t)
	if s := summary(t, r); s.Messages != 0 {
		t.Errorf("after a restart on the full disk %d messages are back", s.Messages)
	}
	eventually(t, 20*time.Second, "mail is refused again", func() bool { full(); return strings.HasPrefix(refused(), "452 4.3.1 ") })
	if err := d.Empty(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "mail is taken again", func() bool { return strings.HasPrefix(refused(), "250 ") })
	eventually(t, 20*time.Second, "it is ready", func() bool { code, _ := r.Get("/readyz"); return code == 200 })
	sent = b.src.Run(t.Context(), 10_000, 200)
	if sent.Errors != 0 {
		t.Error(sent.LastErr)
	}
	b.accepted = append(b.accepted, sent.Accepted...)
	b.check(t, 1200)
}

// TestReadOnly: the file system turns read-only under the relay, as ext4 does
// on an error. When a write fails the process ends; when there is none to fail
// yet it takes no mail and says so. All is there once the disk is mended.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	binary(t)
	dir := workDir(t)
	d := newDisk(t, dir, 512<<20)
	b := openBooks(t, relayproc.Options{Dir: filepath.Join(dir, "relay"), Data: filepath.Join(d.Dir, "data")})
	if sent := b.src.Run(t.Context(), 10_000_000, 100); sent.Errors != 0 {
		t.Fatal(sent.LastErr)
	} else {
		b.accepted = sent.Accepted
	}
	b.away.Store(true)
	b.load(t, 500*time.Millisecond, func() {
		if err := d.Remount("abort"); err != nil {
			t.Skip(err)
		}
		eventually(t, 20*time.Second, "the relay ended, or is not ready", func() bool {
			select {
			case <-b.relay.Exited():
				return true
			default:
				code, _ := b.relay.Get("/readyz")
				return code == 503
			}
		})
	})
	select {
	case <-b.relay.Exited():
		if code := b.relay.ExitCode(); code != 1 {
			t.Errorf("exit code %d, want 1", code)
		}
	default:
		c := greeted(t, b.relay.SMTP)
		c.do("MAIL FROM:<a@client.test>", "451 4.3.0 ")
		b.relay.Kill()
	}
	if log := slogOnly(fullLog(t, b.relay)); !strings.Contains(log, "read-only file system") && !strings.Contains(log, "input/output error") {
		t.Errorf("the log does not say what happened:\n%s", log)
	}
	// It does not start on a read-only file system either, and says why.
	if err := d.Remount("ro"); err == nil {
		if log := fails(t, b.relay, 1); !strings.Contains(log, "read-only file system") {
			t.Errorf("the message:\n%s", log)
		}
	}
	if err := errors.Join(d.Unmount(), d.Check(), d.Mount()); err != nil {
		t.Fatal(err)
	}
	b.restart(t)
	b.check(t, 100)
}

// TestNoRoomToStart: a data_dir that cannot be made is a clear error.
func TestNoRoomToStart(t *testing.T) {
	t.Parallel()
	dir := workDir(t)
	file := filepath.Join(dir, "file")
	writeFile(t, file, "")
	r := launch(t, relayproc.Options{Dir: filepath.Join(dir, "relay"), Data: filepath.Join(file, "data")})
	if log := fails(t, r, 1); !strings.Contains(log, fmt.Sprintf("%s/data", file)) || !strings.Contains(log, "not a directory") {
		t.Errorf("the message:\n%s", log)
	}
}
