// Package whole reads the content of a message, and remembers whether it was
// found damaged.
package whole

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/clrelay/clrelay/spool"
)

// Content is the spool's, and remembers whether it was found damaged.
type Content struct {
	*spool.Content
	Damage atomic.Pointer[spool.DamageError]
}

// Open begins to read.
func (c *Content) Open() (io.ReadCloser, error) {
	rc, err := c.Content.Open()
	if err != nil {
		c.note(err)
		return nil, err
	}
	return &contentReader{rc, c}, nil
}

func (c *Content) note(err error) {
	var d *spool.DamageError
	if err != nil && err != io.EOF && errors.As(err, &d) {
		c.Damage.Store(d)
	}
}

type contentReader struct {
	io.ReadCloser
	c *Content
}

// Read is of io.Reader.
func (r *contentReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.c.note(err)
	return n, err
}

// WriteTo is of io.WriterTo: the spool hands out large slices.
func (r *contentReader) WriteTo(w io.Writer) (int64, error) {
	n, err := r.ReadCloser.(io.WriterTo).WriteTo(w)
	r.c.note(err)
	return n, err
}
