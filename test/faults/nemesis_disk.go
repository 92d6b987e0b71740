package faults

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// refusedWithin is how long a node may take to find out that it may not be
// what it was.
const refusedWithin = 30 * time.Second

// oldCopy puts an old copy of a data_dir back, as from a backup: what the node
// took since is not on its disk. It has to be refused; with an empty disk the
// node comes back.
func (n *nemesis) oldCopy() error {
	i := n.any()
	r := n.cluster.Nodes[i]
	old := r.Data + "-old"
	n.say("an old copy of the data_dir of %s is put back", name(i))
	if err := n.restart(i, 0, func() error { return os.CopyFS(old, os.DirFS(r.Data)) }); err != nil {
		return err
	}
	if err := r.AwaitReady(n.ctx); err != nil {
		return err
	}
	n.away.Store(true)
	n.hold(n.between(1, 5))
	n.kill(i)
	if err := errors.Join(os.RemoveAll(r.Data), os.Rename(old, r.Data)); err != nil {
		return err
	}
	n.hold(n.between(0, 1))
	if err := r.Launch(); err != nil {
		return err
	}
	select {
	case <-r.Exited():
	case <-time.After(refusedWithin):
		r.Kill()
		return fmt.Errorf("%w: %s goes on with an old copy of its data_dir", ErrBroken, name(i))
	}
	if r.ExitCode() != 1 || !strings.Contains(lastError(r), "older than what this node has done") {
		return fmt.Errorf("%w: %s with an old copy of its data_dir ended with code %d: %s", ErrBroken, name(i), r.ExitCode(), lastError(r))
	}
	n.away.Store(false)
	n.hold(n.between(0, 8))
	return errors.Join(os.RemoveAll(r.Data), n.start(i))
}

// tamper has the system calls of a running node changed by strace until the
// returned function is called.
func (n *nemesis) tamper(i int, inject string) (end func() error, err error) {
	calls, _, _ := strings.Cut(inject, ":")
	cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace="+calls, "-e", "inject="+inject,
		"-p", strconv.Itoa(n.cluster.Nodes[i].PID()))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // with the node's exit code, or by the signal
		close(ended)
	}()
	return func() error {
		_ = cmd.Process.Signal(syscall.SIGINT) // it lets go of the node, or has ended with it
		select {
		case <-ended:
		case <-time.After(letGoWithin): // strace 6.1 waits for ever for a node that ends while it is let go
			_ = cmd.Process.Kill()
			<-ended
		}
		return nil
	}, nil
}

// letGoWithin is how long strace may take to let go of a node.
const letGoWithin = 15 * time.Second

// aside keeps the supervisor's hands off a node that is about to end.
func (n *nemesis) aside(i int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[i] = true
	n.counted.last(i)
}

// endsByItself waits for a node to end with code 1, as it must when its disk
// failed.
func (n *nemesis) endsByItself(i int) error {
	r := n.cluster.Nodes[i]
	select {
	case <-r.Exited():
	case <-time.After(refusedWithin):
		r.Kill()
		n.counted.rest(i)
		return fmt.Errorf("%w: %s goes on though its disk failed", ErrBroken, name(i))
	}
	n.counted.rest(i)
	if r.ExitCode() != 1 {
		return fmt.Errorf("%w: %s ended with code %d: %s", ErrBroken, name(i), r.ExitCode(), lastError(r))
	}
	return nil
}

// syncFails has one fsync of a node fail: the node must not go on as if what it
// wrote were there.
func (n *nemesis) syncFails() error {
	i, down := n.any(), n.downFor()
	n.say("an fsync of %s fails, it is down for %v", name(i), down)
	n.aside(i)
	end, err := n.tamper(i, "fsync,fdatasync:error=EIO:when=1")
	if err != nil {
		return err
	}
	if err := errors.Join(n.endsByItself(i), end()); err != nil {
		return err
	}
	n.hold(down)
	return n.start(i)
}

// slowDisk delays every fsync of a node.
func (n *nemesis) slowDisk(i int) error {
	delay, d := n.between(0.3, 5), n.between(5, 15)
	n.say("each fsync of %s takes %v for %v", name(i), delay, d)
	end, err := n.tamper(i, fmt.Sprintf("fsync,fdatasync:delay_enter=%d", delay.Microseconds()))
	if err != nil {
		return err
	}
	n.hold(d)
	return end()
}

// readOnly has the file system of a node give up writing, as after an error of
// the disk.
func (n *nemesis) readOnly() error {
	i, down := n.any(), n.downFor()
	d := n.disks[i]
	n.say("the disk of %s turns read-only, it is down for %v", name(i), down)
	n.aside(i)
	if err := d.Remount("abort"); err != nil {
		return err
	}
	if err := errors.Join(n.endsByItself(i), d.Unmount(), d.Check(), d.Mount()); err != nil {
		return err
	}
	n.hold(down)
	return n.start(i)
}

// bitFlips turns bits of one log file of a node over while it is down.
func (n *nemesis) bitFlips() error {
	i, flips := n.any(), 1+n.rng.IntN(20)
	r := n.cluster.Nodes[i]
	n.away.Store(true)
	n.hold(n.between(1, 4)) // for something to be there
	n.kill(i)
	files, err := filepath.Glob(filepath.Join(r.Data, "log", "*.wal"))
	if err != nil {
		return err
	}
	file, text, err := fullest(files)
	if err != nil {
		return err
	}
	at, err := n.flip(file, text, flips)
	if err != nil {
		return err
	}
	n.say("%d bits of %s of %s are turned over, between %d and %d of %d", flips, filepath.Base(file), name(i), slices.Min(at), slices.Max(at), len(text))
	n.hold(n.between(0, 8))
	n.away.Store(false)
	return n.start(i)
}

// recordsStart is where the records of a log file begin.
const recordsStart = 8192

// fullest is the file of a log that most is written in.
func fullest(files []string) (file string, text []byte, err error) {
	for _, f := range files {
		all, err := os.ReadFile(f)
		if err != nil {
			return "", nil, err
		}
		if all = bytes.TrimRight(all, "\x00"); len(all) > len(text) {
			file, text = f, all
		}
	}
	if len(text) <= recordsStart+1 {
		return "", nil, fmt.Errorf("nothing is written in %v", files)
	}
	return file, text, nil
}

// flip turns bits over in the older half of a file: what was written last may
// look like a torn tail, which is not damage.
func (n *nemesis) flip(file string, text []byte, flips int) (at []int, err error) {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	for range flips {
		where := recordsStart + n.rng.IntN((len(text)-recordsStart)/2)
		at = append(at, where)
		if _, err := f.WriteAt([]byte{text[where] ^ 1<<n.rng.IntN(8)}, int64(where)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return at, errors.Join(f.Sync(), f.Close())
}
