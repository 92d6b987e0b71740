package disk_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/disk"
)

// TestPowerOff shows that the tool does what the tests of the relay need: what
// was synced stays, what was not goes.
func TestPowerOff(t *testing.T) {
	d, err := disk.New(t.TempDir(), 64<<20)
	if errors.Is(err, disk.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Unmount(); err != nil {
			t.Error(err)
		}
	})
	name := filepath.Join(d.Dir, "file")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	write("synced")
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(d.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		t.Fatal(err)
	}
	write(", not synced")
	if err := d.PowerOff(); errors.Is(err, disk.ErrMissing) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("too late"); err == nil {
		t.Error("a write worked without power")
	}
	f.Close()
	if err := errors.Join(d.Unmount(), d.Mount()); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(name); err != nil || string(text) != "synced" {
		t.Errorf("the file holds %q (%v)", text, err)
	}
}

// TestMountedElsewhere: a process in a mount namespace of its own keeps the file
// system alive after umount. The disk must not come back as it was.
func TestMountedElsewhere(t *testing.T) {
	d, err := disk.New(t.TempDir(), 64<<20)
	if errors.Is(err, disk.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Unmount(); err != nil {
			t.Error(err)
		}
	})
	other := exec.Command("unshare", "--mount", "--propagation", "private", "--", "sh", "-c", "echo there; read line")
	stdin, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Skip(err)
	}
	var said [6]byte
	if _, err := io.ReadFull(stdout, said[:]); err != nil {
		t.Skipf("no mount namespace here: %v", err)
	}
	if err := d.PowerOff(); errors.Is(err, disk.ErrMissing) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	off := make(chan error, 2)
	go func() { off <- d.Unmount() }()
	for mounted := true; mounted; {
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		mounted = strings.Contains(string(mounts), d.Dir+" ")
	}
	select {
	case err := <-off:
		t.Error("it was off while another held it")
		off <- err
	case <-time.After(300 * time.Millisecond): // some looks long
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait() // with the code of a read that met the end
	if err := <-off; err != nil {
		t.Fatal(err)
	}
	if err := d.Mount(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Dir, "file"), []byte("text"), 0o600); err != nil {
		t.Errorf("after the power is back: %v", err)
	}
}

// TestFill shows that a filled disk is full, and that it can be emptied.
func TestFill(t *testing.T) {
	d, err := disk.New(t.TempDir(), 64<<20)
	if errors.Is(err, disk.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Unmount(); err != nil {
			t.Error(err)
		}
	})
	name, text := filepath.Join(d.Dir, "file"), make([]byte, 1<<20)
	if err := d.Fill(0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, text, 0o600); err == nil {
		t.Error("a megabyte went onto a full disk")
	}
	if err := d.Empty(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Error(err)
	}
}
