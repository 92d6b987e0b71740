// Package inspect looks at a spool that does not run: Check says what is in it
// and what is broken, Export writes its mail out as files. Both change nothing
// in it, and both get out of a damaged spool what can be got.
//
// It is what `clrelay spool check DIR` and `clrelay spool export DIR OUT` do.
// It is no repair tool: the spool itself leaves out what is damaged when it
// starts. Neither starts goroutines of its own. What is broken is in the
// Report; an error means that nothing could be looked at, or not be written.
package inspect

import (
	"errors"
	"hash/crc32"
	"io"
	"strconv"
	"strings"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/internal/vfs"
	"github.com/clrelay/clrelay/spool"
	"github.com/clrelay/clrelay/spool/datadir"
	"github.com/clrelay/clrelay/spool/wal"
)

// Report is what a look at a spool found.
type Report struct {
	Files      int   // of the log
	Messages   int   // unfinished
	Recipients int   // of them, not done
	Bytes      int64 // of their contents
	Damage     []Damage
}

// Damage is one thing that is broken.
type Damage struct {
	File   string // the data directory where no file is known
	Offset int64
	ID     mail.ID // of the message that it hit; zero where that is unknown
	What   string
}

// look is an opened spool and what was found so far.
type look struct {
	s      *spool.Spool
	dir    string
	unlock func() error
	report Report
}

func open(fsys vfs.FS, dir string) (*look, error) {
	d, unlock, errs, err := datadir.Read(fsys, dir)
	if err != nil {
		return nil, err
	}
	l := &look{dir: dir, unlock: unlock}
	for _, err := range errs {
		l.finding(mail.ID{}, err)
	}
	var rec *spool.Recovery
	if l.s, rec, err = spool.View(fsys, dir, d.ID); err != nil {
		return nil, errors.Join(err, unlock())
	}
	for _, d := range rec.Damage {
		l.finding(mail.ID{}, d)
	}
	l.report.Files = l.s.Stats().Files
	l.report.Messages, l.report.Recipients = rec.Messages, rec.Recipients
	return l, nil
}

// finding notes something that is broken, and where as far as err tells.
func (l *look) finding(id mail.ID, err error) {
	d := Damage{File: l.dir, ID: id, What: err.Error()}
	var (
		inLog   *wal.DamageError
		inSpool *spool.DamageError
	)
	if errors.As(err, &inSpool) {
		d.What = inSpool.What
		if i := strings.LastIndexByte(inSpool.Place, ':'); i >= 0 {
			if n, err := strconv.ParseInt(inSpool.Place[i+1:], 10, 64); err == nil {
				d.File, d.Offset = inSpool.Place[:i], n
			}
		}
	}
	if errors.As(err, &inLog) {
		d.File, d.Offset = inLog.Path, inLog.Offset
		if inSpool == nil || inSpool.What == "" {
			d.What = inLog.What
		}
		if inLog.Err != nil {
			d.What += ": " + inLog.Err.Error()
		}
	}
	l.report.Damage = append(l.report.Damage, d)
}

// end gives everything back.
func (l *look) end(err error) (Report, error) {
	return l.report, errors.Join(err, l.s.Close(), l.unlock())
}

// Check reads everything in a data directory.
func Check(fsys vfs.FS, dir string) (Report, error) {
	l, err := open(fsys, dir)
	if err != nil {
		return Report{}, err
	}
	return l.end(l.s.Each(func(m *spool.Message, _ *mail.Envelope, _ []spool.RecipientState) {
		l.report.Bytes += m.Size()
		if err := l.content(m, io.Discard); err != nil {
			l.finding(m.ID(), err)
		}
		if _, err := l.s.States(m); err != nil {
			l.finding(m.ID(), err)
		}
	}))
}

// content writes a message's content to w, as far as it can be read, and tells
// what is wrong with it.
func (l *look) content(m *spool.Message, w io.Writer) error {
	r, err := l.s.Content(m).Open()
	if err != nil {
		return err
	}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n, err := io.Copy(io.MultiWriter(w, sum), r)
	if err == nil {
		var want uint32
		if want, err = l.s.Checksum(m); err == nil && (want != sum.Sum32() || n != m.Size()) {
			err = errors.New("its content is not what was accepted, though each part of it is whole")
		}
	}
	return errors.Join(err, r.Close())
}
