// Package suppressions keeps the suppression list of a machine that is alone in
// a file, as a cluster keeps it in Raft.
//
// The file begins with pages, the list as it was when the file was written, and
// goes on with the changes since. When these outgrow the pages a new file takes
// its place. A change counts once it is on stable storage; one that a crash cut
// off is cut off for good at the next start.
package suppressions

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/proto/control"
	controlv1 "github.com/clrelay/clrelay/proto/control/v1"
	"github.com/clrelay/clrelay/proto/control/wire"
)

// Name is that of the file in its folder.
const Name = "suppressed"

const (
	magic   = "clrsup1\n"
	header  = 13      // of a frame: kind, length, CRC-32C of the text and of these nine octets, all big-endian
	maxSize = 4 << 20 // of a frame's text
	slack   = 1 << 20 // octets of changes that never make a new file
)

// The kinds of frames.
const (
	kindPage   = 'P' // a control.v1.SuppressionPage; before the first of the others
	kindChange = 'C' // a control.v1.Command with SuppressOps
)

// File is the list and its file. It is safe for concurrent use.
type File struct {
	fs   vfs.FS
	dir  string
	list *suppressed.Table

	mu     sync.Mutex
	file   vfs.File
	size   int64 // up to where the file is whole
	pages  int64 // octets of it before the first change
	broken error // once what is on the disk is not known any more
}

// Open reads the list in a folder; without a file it is empty.
func Open(disk vfs.FS, dir string) (*File, error) {
	f := &File{fs: disk, dir: dir, list: suppressed.New()}
	if err := disk.Remove(f.path() + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("suppression list: %w", err)
	}
	file, err := disk.OpenFile(f.path(), os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("suppression list: %w", err)
	}
	f.file = file
	if err := f.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("suppression list: %s: %w; put a copy of it back, or move it away: mail goes to all addresses again then", f.path(), err), file.Close())
	}
	return f, nil
}

func (f *File) path() string { return filepath.Join(f.dir, Name) }

var errDamaged = errors.New("it is damaged")

// load reads the file, and cuts off a change that is not whole.
func (f *File) load() error {
	size, err := f.file.Size()
	if err != nil {
		return err
	}
	all := make([]byte, size)
	if size > 0 {
		if n, err := f.file.ReadAt(all, 0); int64(n) != size {
			return fmt.Errorf("reading it: %w", err)
		}
	}
	if len(all) < len(magic) || string(all[:len(magic)]) != magic {
		return fmt.Errorf("%w: it does not begin as one", errDamaged)
	}
	var pages [][]byte
	f.size = int64(len(magic))
	loaded := false
	for rest := all[len(magic):]; len(rest) > 0; rest = all[f.size:] {
		kind, text, n := frame(rest)
		if n == 0 && torn(rest, f.size) {
			if err := f.file.Truncate(f.size); err != nil {
				return err
			}
			break
		}
		switch {
		case n == 0 || kind == kindPage && loaded:
			return fmt.Errorf("%w at octet %d", errDamaged, f.size)
		case kind == kindPage:
			pages = append(pages, text)
		default:
			if err := f.take(&loaded, pages); err != nil {
				return err
			}
			var m controlv1.Command
			c, ok := control.Command(nil), proto.Unmarshal(text, &m) == nil
			if ok {
				c, ok = wire.GetCommand(&m)
			}
			ops, isOps := c.(control.SuppressOps)
			if !ok || !isOps {
				return fmt.Errorf("%w at octet %d", errDamaged, f.size)
			}
			f.list.Do(&ops)
		}
		f.size += int64(n)
	}
	return f.take(&loaded, pages)
}

// take makes the list of the pages, once.
func (f *File) take(loaded *bool, pages [][]byte) error {
	if *loaded {
		return nil
	}
	*loaded, f.pages = true, f.size
	t, ok := suppressed.FromPages(pages)
	if !ok {
		return fmt.Errorf("%w: its entries are not in order", errDamaged)
	}
	f.list.Become(t)
	return nil
}

// frame takes the first frame off; n is 0 where there is no whole one.
func frame(b []byte) (kind byte, text []byte, n int) {
	if !headed(b) {
		return 0, nil, 0
	}
	size := binary.BigEndian.Uint32(b[1:])
	if int64(size) > int64(len(b)-header) {
		return 0, nil, 0
	}
	text = b[header : header+int(size)]
	if binary.BigEndian.Uint32(b[5:]) != sum(text) {
		return 0, nil, 0
	}
	return b[0], text, header + int(size)
}

// headed tells whether a sound header stands here.
func headed(b []byte) bool {
	return len(b) >= header && binary.BigEndian.Uint32(b[9:]) == sum(b[:9]) && (b[0] == kindPage || b[0] == kindChange) && binary.BigEndian.Uint32(b[1:]) <= maxSize
}

// torn tells whether what is not whole is the end of the file as a crash may
// leave it: only the last frame can be, for each is synced before the next. Of
// its sectors any may not have been written, and are zeros; at is where it
// begins in the file.
func torn(b []byte, at int64) bool {
	if len(b) < header {
		return true
	}
	if headed(b) {
		return int64(binary.BigEndian.Uint32(b[1:]))+header >= int64(len(b))
	}
	cut := min(header, int(vfs.SectorSize-at%vfs.SectorSize)) // of the header in the first sector
	return len(b) <= maxSize+header && (zeros(b[:cut]) || cut < header && zeros(b[cut:header]))
}

func zeros(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func sum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func appendFrame(b []byte, kind byte, text []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	b = binary.BigEndian.AppendUint32(b, sum(text))
	b = binary.BigEndian.AppendUint32(b, sum(b[len(b)-9:]))
	return append(b, text...)
}

// Suppressed is the list.
func (f *File) Suppressed() *suppressed.Table { return f.list }

// Suppress changes the list, and returns once that is on stable storage.
func (f *File) Suppress(_ context.Context, c control.SuppressOps) ([]control.OpResult, error) {
	m, _ := wire.PutCommand(c)
	text, err := proto.Marshal(m)
	if err != nil || len(text) > maxSize || len(c.Add)+len(c.Remove) > control.MaxOps {
		return nil, fmt.Errorf("suppression list: a change of %d octets cannot be kept: %w", len(text), errors.Join(err, errors.ErrUnsupported))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	if f.file == nil || f.size-f.pages > max(slack, f.pages) {
		if err := f.rewrite(); err != nil {
			return nil, err
		}
	}
	if err := f.write(appendFrame(nil, kindChange, text)); err != nil {
		return nil, err
	}
	return f.list.Do(&c), nil
}

// write appends a frame.
func (f *File) write(b []byte) error {
	_, err := f.file.WriteAt(b, f.size)
	if err == nil {
		if err = f.file.Sync(); err == nil {
			f.size += int64(len(b))
			return nil
		}
		f.broken = fmt.Errorf("suppression list: what is in the file is not known since a write failed; restart the relay: %w", err)
		return f.broken
	}
	err = fmt.Errorf("suppression list: %w", err) // such as on a full disk: it is tried again
	if cut := f.file.Truncate(f.size); cut != nil {
		f.broken = errors.Join(err, cut)
	}
	return err
}

// rewrite puts a new file in the place of the old one.
func (f *File) rewrite() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("suppression list: %w", err)
		}
	}()
	name := f.path() + ".new"
	file, err := f.fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	at := int64(0)
	put := func(b []byte) error {
		_, err := file.WriteAt(b, at)
		at += int64(len(b))
		return err
	}
	err = put([]byte(magic))
	for _, page := range f.list.Pages() {
		if err == nil {
			err = put(appendFrame(nil, kindPage, page))
		}
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = f.fs.Rename(name, f.path())
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if f.file != nil {
		_ = f.file.Close() // nothing of it is needed any more
	}
	f.file, f.size, f.pages = file, at, at
	return f.fs.SyncDir(f.dir)
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = errors.New("suppression list: it is closed")
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
