package spool_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
)

// TestSlowReader reads long content piece by piece while compaction moves it
// to other files and the old ones are used again.
func TestSlowReader(t *testing.T) {
	o := options(vfs.NewMem())
	o.FileSize = 1 << 20 // chunks of 128 KiB, which are read in pieces
	s, _ := open(t, o)
	if err := s.Each(func(*spool.Message, *mail.Envelope, []spool.RecipientState) {}); err != nil {
		t.Fatal(err)
	}
	var slow []io.ReadCloser
	var bodies [][]byte
	for i := range 32 {
		body := content(uint64(i), 300_000)
		m := accept(t, s, envelope(1), body)
		if i%4 != 0 {
			if err := s.Settle(m, []spool.Result{delivered(0)}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		r, err := s.Content(m).Open()
		if err != nil {
			t.Fatal(err)
		}
		slow, bodies = append(slow, r), append(bodies, body)
	}
	got := make([]bytes.Buffer, len(slow))
	for step := range 40 {
		for i, r := range slow {
			if _, err := io.CopyN(&got[i], r, 10_000); err != nil && err != io.EOF {
				t.Fatalf("reader %d, step %d: %v", i, step, err)
			}
		}
		for range 3 {
			m := accept(t, s, envelope(1), content(9, 400_000))
			if err := s.Settle(m, []spool.Result{delivered(0)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Compact(); err != nil {
			t.Fatal(err)
		}
	}
	// The eight lay in eight files.
	if st := s.Stats(); st.Files > 7 {
		t.Errorf("nothing was moved: %+v", st)
	}
	for i, r := range slow {
		if !bytes.Equal(got[i].Bytes(), bodies[i]) {
			t.Errorf("reader %d got %d octets, not what was accepted", i, got[i].Len())
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	closeSpool(t, s)
}

// TestDamagedChunk damages each chunk of a message in turn: the reader gets
// an error that names the place, and never the last octet.
func TestDamagedChunk(t *testing.T) {
	mem := vfs.NewMem()
	o := options(mem)
	o.FileSize = 1 << 20
	s, _ := open(t, o)
	body := content(1, 500_000)
	m := accept(t, s, envelope(1), body)
	for off := 50_000; off < len(body); off += 100_000 {
		undo := flip(t, mem, body[off:off+64])
		r, err := s.Content(m).Open()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		d := (*spool.DamageError)(nil)
		if !errors.As(err, &d) || !strings.Contains(d.Place, "/data/log/") || len(got) >= len(body) {
			t.Errorf("damage at octet %d: %d octets and %v", off, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		undo()
	}
	wantContent(t, s, m, body)
	closeSpool(t, s)
}

// flip finds text in the log, flips a bit in it, and gives what undoes that.
func flip(t *testing.T, fsys vfs.FS, text []byte) (undo func()) {
	t.Helper()
	f, at := find(t, fsys, text)
	set := func(b byte) {
		if _, err := f.WriteAt([]byte{b}, at); err != nil {
			t.Fatal(err)
		}
	}
	set(text[0] ^ 1)
	return func() { set(text[0]) }
}

// find finds text in the log.
func find(t *testing.T, fsys vfs.FS, text []byte) (vfs.File, int64) {
	t.Helper()
	names, err := fsys.ReadDir("/data/log")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		f, err := fsys.OpenFile(filepath.Join("/data/log", name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		size, _ := f.Size()
		all := make([]byte, size)
		if _, err := f.ReadAt(all, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if at := bytes.Index(all, text); at >= 0 {
			return f, int64(at)
		}
	}
	t.Fatal("not found in the log")
	return nil, 0
}
