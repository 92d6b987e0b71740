package content

import (
	"errors"
	"fmt"
	"io"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/wal"
	"github.com/clrelay/clrelay/spool/wal/buffers"
)

// Content is the content of a message, to be read from the log as often as
// one likes, by many at once.
type Content struct {
	s *Source
	m *state.Message
}

// Of gives access to a message's content. It reads nothing yet.
func (s *Source) Of(m *state.Message) *Content { return &Content{s, m} }

// Size is the length of the content in octets.
func (c *Content) Size() int64 { return c.m.Size() }

// Open begins to read the content. The reader is an io.WriterTo, too, which
// hands out large slices, of 64 KiB at most. Content that is damaged ends in a
// *record.DamageError, and that of a message that is finished meanwhile in
// record.ErrFinished, instead of io.EOF and before the last octet: whoever got io.EOF
// got what was accepted. Close it.
func (c *Content) Open() (io.ReadCloser, error) {
	return &reader{s: c.s, m: c.m, left: c.m.Size()}, nil
}

// reader reads a message chunk by chunk.
type reader struct {
	s    *Source
	m    *state.Message
	next int          // index of the next chunk
	long *wal.Section // the chunk that is being read in pieces, if it is a long one
	at   wal.Pos      // where long reads
	buf  *[]byte      // of the pool; nil while there is none
	data []byte       // what of the current chunk is not yet handed out
	left int64        // octets behind data
	err  error
}

// Read is of io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

// WriteTo is of io.WriterTo.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if len(r.data) == 0 {
			if err := r.fill(); err == io.EOF {
				return total, nil
			} else if err != nil {
				return total, err
			}
		}
		n, err := w.Write(r.data)
		total += int64(n)
		r.data = r.data[n:]
		if err != nil {
			return total, err
		}
	}
}

// Close gives the buffer back.
func (r *reader) Close() error {
	r.giveBack()
	r.data, r.err = nil, errors.New("spool: content is closed")
	return nil
}

func (r *reader) giveBack() {
	if r.buf != nil {
		r.s.Readers.Put(r.buf)
		r.buf = nil
	}
}

// fill reads the next chunk.
func (r *reader) fill() error {
	if r.err == nil && r.left == 0 {
		r.err = io.EOF
	}
	for r.err == nil && len(r.data) == 0 {
		r.data, r.err = r.chunk()
		r.left -= int64(len(r.data))
		if r.err == nil && (r.left < 0 || r.left > 0 && len(r.data) == 0) {
			r.err = r.damaged(fmt.Sprintf("chunk %d has the wrong length", r.next))
		}
	}
	if r.err != nil {
		r.giveBack()
	}
	return r.err
}

func (r *reader) damaged(what string) error {
	return &record.DamageError{Place: r.s.Dir, What: "content of message " + r.m.ID().String() + ": " + what}
}

// where tells where the next chunk lies now.
func (r *reader) where() state.Chunk {
	r.s.Mu.Lock()
	defer r.s.Mu.Unlock()
	c, _ := r.s.State.Chunk(r.m, r.next)
	return c
}

// chunk reads the next chunk, or the next piece of a long one.
func (r *reader) chunk() ([]byte, error) {
	if r.long != nil && r.long.Left() > 0 {
		return r.piece()
	}
	r.long = nil
	at := r.where()
	if at.Pos == 0 {
		return nil, r.missing()
	}
	var h wal.Header
	var data []byte
	err := r.elsewhere(at.Pos, func(pos wal.Pos) (err error) {
		if at.Len <= buffers.PieceSize {
			r.need(int(at.Len))
			h, data, err = r.s.readWritten(pos, int(at.Len), *r.buf)
			return err
		}
		r.need(buffers.PieceSize)
		if r.long, err = r.s.section(pos); err == nil {
			h, r.at = r.long.Header(), pos
			data, err = r.long.Next(*r.buf)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	first, index, err := record.ParseChunkHeader(data)
	if err != nil || !r.m.Owns(h, first) || int(index) != r.next {
		return nil, r.damaged(fmt.Sprintf("chunk %d of message %d.%d where chunk %d should be", index, h.Segment, first, r.next))
	}
	if r.long == nil || r.long.Left() == 0 {
		r.next++
	}
	return data[record.ChunkHeaderLen:], nil
}

// piece reads on in a long chunk.
func (r *reader) piece() (data []byte, err error) {
	err = r.elsewhere(r.at, func(pos wal.Pos) (err error) {
		if pos != r.at {
			err = r.long.Move(pos)
		}
		if err == nil {
			r.at = pos
			data, err = r.long.Next(*r.buf)
		}
		return err
	})
	if err == nil && r.long.Left() == 0 {
		r.next++
	}
	return data, err
}

// elsewhere reads the next chunk at pos, and, should compaction have moved it
// meanwhile, where it is then.
func (r *reader) elsewhere(pos wal.Pos, read func(wal.Pos) error) error {
	for pos != 0 {
		err := read(pos)
		if err == nil {
			return nil
		}
		now := r.where().Pos
		if now == pos {
			return fmt.Errorf("spool: content of message %s: %w", r.m.ID(), r.s.damage(pos, err))
		}
		pos = now
	}
	return r.missing()
}

// need makes the buffer large enough for that many octets of a record.
func (r *reader) need(size int) {
	if r.buf == nil || cap(*r.buf) < size+wal.HeaderSize {
		r.giveBack()
		r.buf = r.s.Readers.Get(size + wal.HeaderSize)
	}
}

// missing tells why there is no next chunk.
func (r *reader) missing() error {
	r.s.Mu.Lock()
	finished := r.s.State.Commit(r.m) == 0
	r.s.Mu.Unlock()
	if finished {
		return fmt.Errorf("spool: content of message %s: %w", r.m.ID(), record.ErrFinished)
	}
	return &record.DamageError{Place: r.s.Dir, What: fmt.Sprintf("content of message %s: chunk %d is missing", r.m.ID(), r.next+1)}
}
