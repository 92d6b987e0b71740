package rescue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// hand gives what root made to whom the data_dir belongs: the relay runs as its
// own user, and could not open it. That user may do what it likes in there, so
// nothing is followed that leads out of it.
func (n Node) hand() (err error) {
	root, err := os.OpenRoot(n.DataDir)
	if err != nil {
		return fmt.Errorf("rescue: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	top, err := owner(root, ".")
	if err != nil || os.Geteuid() != 0 || top.Uid == 0 {
		return err
	}
	return fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("rescue: %w", err)
		}
		st, err := owner(root, path)
		if err != nil || st.Uid != 0 {
			return err
		}
		if err := root.Lchown(path, int(top.Uid), int(top.Gid)); err != nil {
			return fmt.Errorf("rescue: giving %s to its owner: %w", path, err)
		}
		return nil
	})
}

func owner(root *os.Root, path string) (*syscall.Stat_t, error) {
	info, err := root.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("rescue: %w", err)
	}
	return info.Sys().(*syscall.Stat_t), nil // on Linux it is one
}
