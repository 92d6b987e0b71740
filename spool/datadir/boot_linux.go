package datadir

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// BootOf names the boot of the machine and the mount that dir is on: as long
// as both are the same, what was written is there even if it was not synced.
func BootOf(dir string) string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // never equal to another, so the worst is assumed
	}
	boot := strings.TrimSpace(string(id))
	const mountIDUnique = 0x4000 // STATX_MNT_ID_UNIQUE, Linux 6.8: never given twice
	for _, mask := range []int{mountIDUnique, unix.STATX_MNT_ID} {
		var st unix.Statx_t
		if unix.Statx(unix.AT_FDCWD, dir, 0, mask, &st) == nil && int(st.Mask)&mask != 0 {
			return fmt.Sprintf("%s %d", boot, st.Mnt_id)
		}
	}
	return boot
}

// CloseToOthers takes everybody else's rights on a directory away.
func CloseToOthers(dir string, log *slog.Logger) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	if fi.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("spool: %s is open to other users and mail is private: chmod 700 it: %w", dir, err)
	}
	log.Info("data_dir was open to other users; it has mode 0700 now", "dir", dir)
	return nil
}
