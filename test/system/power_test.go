package system

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/disk"
	"github.com/clrelay/clrelay/test/relayproc"
)

// newDisk makes a disk for a relay's data_dir that goes away with the test.
func newDisk(t testing.TB, dir string, size int64) *disk.Disk {
	t.Helper()
	d, err := disk.New(dir, size)
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
	return d
}

// TestPowerLoss cuts the power of the disk under load, again and again: what
// was answered 250 arrives after the restart, and copies are covered by the
// count of possible duplicates.
func TestPowerLoss(t *testing.T) {
	rounds := envInt("CLRELAY_POWER_CUTS", 10)
	rng := rand.New(rand.NewPCG(seed(t), 2))
	binary(t)
	dir := workDir(t)
	d := newDisk(t, dir, 1<<30)
	b := openBooks(t, relayproc.Options{Dir: filepath.Join(dir, "relay"), Data: filepath.Join(d.Dir, "data")})
	for range rounds {
		b.away.Store(rng.IntN(2) == 0)
		b.load(t, time.Duration(50+rng.IntN(500))*time.Millisecond, func() {
			if err := d.PowerOff(); errors.Is(err, disk.ErrMissing) {
				t.Skip(err)
			} else if err != nil {
				t.Fatal(err)
			}
			b.relay.Kill()
		})
		if err := errors.Join(d.Unmount(), d.Mount()); err != nil {
			t.Fatal(err)
		}
		b.restart(t)
	}
	b.check(t, rounds*10)
}
