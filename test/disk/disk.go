// Package disk makes small ext4 file systems in image files, for tests of what
// a relay does when its disk is full, turns read-only or loses power. It needs
// root and a free loop device; New says what is missing.
package disk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// ErrMissing is wrapped by New's error where the machine cannot do it.
var ErrMissing = errors.New("no test disk here")

// Disk is a file system in an image file.
type Disk struct {
	Dir     string // where it is mounted
	image   string
	mounted bool
}

// New makes and mounts a file system of that many octets. The image and the
// mount point lie in dir.
func New(dir string, size int64) (*Disk, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: mounting needs root", ErrMissing)
	}
	for _, tool := range []string{"mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: %s is not installed", ErrMissing, tool)
		}
	}
	dir, err := filepath.EvalSymlinks(dir) // as the kernel names it
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	d := &Disk{Dir: filepath.Join(dir, "mnt"), image: filepath.Join(dir, "disk.img")}
	if err := os.Mkdir(d.Dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(d.image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return nil, err
	}
	if err := run("mkfs.ext4", "-q", "-F", "-m", "0", d.image); err != nil {
		return nil, err
	}
	if err := d.Mount(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	return d, nil
}

// Mount mounts it; the journal is replayed as after a crash.
func (d *Disk) Mount() error {
	if err := run("mount", "-o", "loop", d.image, d.Dir); err != nil {
		return err
	}
	d.mounted = true
	return nil
}

// patience is how long Unmount waits for others.
const patience = time.Minute

// Unmount takes it off. It waits for what still holds it open, and for what
// holds it mounted: the processes of another mount namespace that was made
// meanwhile. As long as they do, Mount would give back the same file system,
// without power or full of errors as it is.
func (d *Disk) Unmount() error {
	if !d.mounted {
		return nil
	}
	off := func() error {
		if err := run("umount", d.Dir); err != nil {
			return err
		}
		d.mounted = false
		return nil
	}
	return errors.Join(d.await(off), d.await(d.free))
}

// await tries until there is no error, or patience is at its end.
func (d *Disk) await(try func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(patience); ; <-tick.C {
		if err := try(); err == nil || time.Now().After(limit) {
			return err
		}
	}
}

// free is an error while a loop device has the image.
func (d *Disk) free() error {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return err
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(text)) == d.image { // else it is gone
			return fmt.Errorf("%s is still mounted elsewhere: %s has it", d.image, f)
		}
	}
	return nil
}

// Remount changes the options of the mounted file system.
func (d *Disk) Remount(options string) error { return run("mount", "-o", "remount,"+options, d.Dir) }

// Check repairs the unmounted file system as a boot would.
func (d *Disk) Check() error {
	err := run("e2fsck", "-p", "-f", d.image)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil // repaired
	}
	return err
}

// PowerOff does to the file system what a power failure does: nothing more
// reaches the disk, not even the journal, and every call fails from now on.
// What was not synced is gone after the next Mount.
func (d *Disk) PowerOff() error {
	const (
		shutdown   = 2<<30 | 4<<16 | 'X'<<8 | 125 // EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
		noLogFlush = 2
	)
	f, err := os.Open(d.Dir)
	if err != nil {
		return err
	}
	defer f.Close()
	how := uint32(noLogFlush)
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&how))); e != 0 {
		return fmt.Errorf("%w: shutting down %s: %w", ErrMissing, d.Dir, e)
	}
	return nil
}

// Fill takes all space but the given octets with files of its own.
func (d *Disk) Fill(leave int64) error {
	tries := 0
	for i := 0; ; i++ {
		free, err := d.room()
		if err != nil {
			return err
		}
		if free <= leave || tries > 20 {
			return nil // what is left after so many tries are blocks that no file gets
		}
		f, err := os.OpenFile(d.ballast(i), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, os.ErrExist) {
			continue // of an earlier call
		}
		if err != nil {
			return err
		}
		err = syscall.Fallocate(int(f.Fd()), 0, 0, max(min(free-leave, 1<<30), 4096))
		if err := errors.Join(err, f.Close()); err != nil && !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		tries++
	}
}

// Empty removes what Fill made.
func (d *Disk) Empty() error {
	for i := 0; ; i++ {
		err := os.Remove(d.ballast(i))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (d *Disk) ballast(i int) string { return filepath.Join(d.Dir, fmt.Sprintf("ballast-%d", i)) }

func (d *Disk) room() (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.Dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
