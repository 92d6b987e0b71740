package spool

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync/atomic"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/wal"
)

// castagnoli is computed by the processor itself on amd64 and arm64.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Accept reads the content up to io.EOF and stores the message. When it
// returns nil, the message is durable on every copy and the relay answers for
// it (RFC 5321 4.2.5); Options.Accepted has been told of it. env.ID has to be
// set, and env is not kept.
//
// An error of content is returned as it is; nothing is kept then. All other
// errors are a *mail.Reply for the client, and nothing is kept either, with
// one exception: after a failure of the log the message may be found, and
// delivered, at the next start, as after a 250 that the client did not hear.
// ctx bounds the wait for memory alone: what has arrived is not thrown away.
func (s *Spool) Accept(ctx context.Context, env *mail.Envelope, content io.Reader) (*Message, error) {
	if r := s.Ready(); r != nil {
		return nil, r
	}
	if n := len(env.Recipients); n == 0 || n > state.MaxRecipients || env.ID.IsZero() {
		return nil, mail.NewReply(554, "5.5.1", "no valid recipients").WithCause(fmt.Errorf("spool: message %s with %d recipients", env.ID, n))
	}
	buf, err := s.buffers.Get(ctx)
	if err != nil {
		return nil, mail.NewReply(451, "4.3.2", "system busy, try again later").WithCause(fmt.Errorf("spool: waiting for a buffer: %w", err))
	}
	in := &intake{s: s, env: env, buf: buf}
	m, err := in.run(content)
	in.release()
	in.arrived()
	if err != nil {
		return nil, err
	}
	s.opts.Metrics.Accepted.Inc()
	if in.mine {
		s.opts.Accepted(m, env)
	}
	return m, nil
}

// intake is a message that is arriving.
type intake struct {
	s      *Spool
	env    *mail.Envelope
	buf    *[]byte
	dirty  bool // somebody may still read buf
	g      *state.Segment
	first  uint64
	header [record.ChunkHeaderLen]byte
	data   [2][]byte // of the chunk record
	recs   [2]wal.Record
	chunks []state.Chunk
	more   []uint32
	commit wal.Pos // of the commit record, once it is appended
	seq    uint64  // of it
	length int64   // of it on the disk
	m      *Message
	mine   bool // m is the queue's
	size   uint64
	crc    uint32
	moving // in a cluster
}

// run takes the content and commits it.
func (in *intake) run(content io.Reader) (*Message, error) {
	for {
		n, eof, err := in.fill(content)
		if err == nil {
			in.crc = crc32.Update(in.crc, castagnoli, (*in.buf)[:n])
			in.size += uint64(n)
			if in.size > state.MaxSize {
				err = mail.NewReply(552, "5.3.4", "message too big for system")
			}
		}
		if err != nil {
			in.abort("content failed")
			return nil, err
		}
		if err := in.store((*in.buf)[:n], eof); err != nil {
			in.abort("not stored")
			return nil, refusal(fmt.Errorf("spool: storing message %s: %w", in.env.ID, err))
		}
		if eof {
			return in.finish(), nil
		}
	}
}

// fill reads until the buffer is full, and cannot be had larger, or the
// content ends.
func (in *intake) fill(content io.Reader) (n int, eof bool, err error) {
	const tries = 100 // reads in a row that give nothing
	for empty := 0; empty < tries; {
		k, err := content.Read((*in.buf)[n:])
		n += k
		switch {
		case err == io.EOF: // io.Reader's contract: never wrapped
			return n, true, nil
		case err != nil:
			return n, false, err
		case n == len(*in.buf):
			in.buf = in.s.buffers.Larger(in.buf, in.s.limit)
			if n == len(*in.buf) {
				return n, false, nil
			}
		}
		if empty++; k > 0 {
			empty = 0
		}
	}
	return n, false, io.ErrNoProgress
}

// store appends a chunk and waits until its memory can be used again; if it is
// the last one, with the commit record, until the message is durable on every
// copy.
func (in *intake) store(chunk []byte, last bool) error {
	for {
		err := in.again()
		if err == nil {
			err = in.put(chunk, last)
		}
		if !errors.Is(err, ErrMoved) {
			return err
		}
		if err := in.moved(err); err != nil {
			return err
		}
	}
}

// put appends a chunk, and the commit record if it is the last one, and waits
// for it. After ErrMoved nothing of the call is on the books.
func (in *intake) put(chunk []byte, last bool) error {
	if err := in.join(); err != nil {
		return err
	}
	had := len(in.chunks)
	c, ticket, err := in.append(chunk, last)
	if err != nil {
		return err
	}
	if last {
		err = c.WaitDurable()
	} else {
		err = c.WaitWritten()
	}
	if err != nil {
		return err // the buffer stays dirty
	}
	if ticket != nil {
		err = ticket.Wait()
	}
	in.dirty = false
	if errors.Is(err, ErrMoved) {
		in.takeBack(had)
	}
	return err
}

// append puts a chunk into the log, with the commit record behind it if it is
// the last one. ticket is nil when there are no other copies.
func (in *intake) append(chunk []byte, last bool) (c *wal.Commit, ticket Ticket, err error) {
	s := in.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, wal.ErrClosed
	}
	if err := in.enter(); err != nil {
		return nil, nil, err
	}
	seq, more := in.g.Last, in.more
	recs := in.recs[:0]
	if len(chunk) > 0 || len(in.chunks) == 0 {
		seq++
		record.AppendChunkHeader(in.header[:0], in.first, uint32(len(in.chunks)))
		in.data = [2][]byte{in.header[:], chunk}
		recs = append(recs, in.record(record.KindChunk, seq, in.data[:]))
		if seq != in.first {
			more = append(more, uint32(seq-in.first))
		}
	}
	withChunk := len(recs) == 1
	if last {
		seq++
		c := record.Commit{First: in.first, More: more, Length: in.size, CRC32C: in.crc}
		data := record.AppendCommit(make([]byte, 0, 256), &c, in.env)
		recs = append(recs, in.record(record.KindCommit, seq, [][]byte{data}))
		in.length = wal.RecordSize(len(data))
	}
	if c, err = s.log.Append(recs...); err != nil {
		return nil, nil, err
	}
	in.dirty, in.more = true, more
	if withChunk {
		in.chunks = append(in.chunks, state.Chunk{Pos: c.Pos(0), Len: uint32(len(chunk) + record.ChunkHeaderLen)})
	}
	for i := range recs {
		s.state.Pend(c.Pos(i))
	}
	if last {
		in.commit, in.seq = c.Pos(len(recs)-1), seq
	}
	s.wrote(c)
	if !state.Replicated(in.g.ID) {
		in.g.Last = seq
		return c, nil, nil
	}
	in.g.Advance(seq, c.Pos(0).File())
	if last {
		in.m = in.message()
		in.g.Wait(in.m)
	}
	return c, s.opts.Placement.Append(recs, c), nil
}

func (in *intake) record(kind uint8, seq uint64, data [][]byte) wal.Record {
	return wal.Record{Header: wal.Header{Segment: in.g.ID, Epoch: in.g.Epoch, Seq: seq, Kind: wal.Kind(kind)}, Data: data}
}

// enter finds the segment for a message that has none yet; in a cluster join
// has picked it, and has to do so again if it can no longer be used. s.mu is
// held.
func (in *intake) enter() error {
	s := in.s
	if s.opts.Placement != nil {
		g := s.state.Segment(in.picked)
		if g == nil || !state.Replicated(g.ID) || !g.Open() || in.g != nil && in.g != g {
			return fmt.Errorf("segment %d is not for new mail here: %w", in.picked, ErrMoved)
		}
		if in.g == nil {
			in.g, in.first = g, g.Last+1
		}
		return nil
	}
	if in.g == nil {
		g, err := s.openSegment()
		if err != nil {
			return err
		}
		in.g, in.first = g, g.Last+1
		g.Arriving++
	}
	return nil
}

// finish enters the message, which is durable on every copy.
func (in *intake) finish() *Message {
	s := in.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Accepted++
	if adopted := in.arrive(); adopted || !in.g.Owned {
		s.counts.HandedOver++ // meanwhile
	}
	in.mine = in.g.Owned && s.state.Commit(in.m) != 0
	in.leave()
	return in.m
}

// message makes the handle of what is appended.
func (in *intake) message() *Message {
	return state.NewMessage(in.env, &state.Arrival{
		Segment: in.g, First: in.first, Seq: in.seq, Size: in.size, Chunks: in.chunks, Commit: in.commit, CommitSize: in.length,
	})
}

// arrive takes the records off the books as pending and enters them as a
// message, unless it was adopted. s.mu is held.
func (in *intake) arrive() (adopted bool) {
	s := in.s
	if in.m == nil {
		in.m = in.message()
	} else {
		adopted = !in.g.Waited(in.m)
	}
	s.state.Unpend(in.commit)
	s.unpend(in.chunks)
	if !adopted {
		s.state.Enter(in.m)
	}
	return adopted
}

// leave ends the message's time as one that is arriving. s.mu is held.
func (in *intake) leave() {
	if in.s.opts.Placement != nil {
		return // Accept tells it
	}
	in.g.Arriving--
	if err := in.s.sealIfQuiet(in.g); err != nil {
		in.s.opts.Log.Warn("sealing a segment", "segment", in.g.ID, "err", err)
	}
}

// abort undoes what the books have of the message and tells the log, so that
// other copies can forget the chunks. If there is a commit record, the abort
// kills it.
func (in *intake) abort(why string) {
	s := in.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unpend(in.source)
	if in.g == nil {
		return
	}
	defer in.leave()
	known := s.state.Segment(in.g.ID) == in.g
	if in.commit != 0 && known && in.g.Held() && in.g.Reaches(in.seq) {
		// Another node owns it by now, and decides: here it is a copy as good as
		// any.
		in.arrive()
		return
	}
	s.unpend(in.chunks)
	adopted := false
	if in.commit != 0 {
		s.state.Unpend(in.commit)
		adopted = in.m != nil && !in.g.Waited(in.m)
	}
	if len(in.chunks) == 0 || !known {
		return
	}
	// Without the record the chunks are as dead; only a commit would live.
	wr := in.record(record.KindAbort, in.first, [][]byte{record.AppendAbort(nil, why, in.commit.File())})
	switch c, err := s.append(wr); {
	case err == nil:
		switch {
		case adopted && s.state.Commit(in.m) != 0:
			if in.g.Owned {
				s.counts.Finished++
			}
			s.state.Settled(in.m, &record.Result{Finished: true}, c.Pos(0), 0)
		case in.commit != 0:
			s.state.Killed(c.Pos(0), in.commit.File())
		}
		s.tell(wr)
	case !errors.Is(err, wal.ErrClosed):
		s.opts.Log.Warn("recording an aborted message", "id", in.env.ID, "err", err)
	}
}

// unpend takes chunks off the books that are no longer arriving.
func (s *Spool) unpend(chunks []state.Chunk) {
	for _, c := range chunks {
		s.state.Unpend(c.Pos)
	}
}

// release gives the buffer back.
func (in *intake) release() {
	if in.dirty {
		in.s.buffers.Abandon(in.buf)
		return
	}
	in.s.buffers.Put(in.buf)
}

// refusal makes an error of the log a reply for the client.
func refusal(err error) *mail.Reply {
	var r *mail.Reply
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, wal.ErrNoSpace):
		return mail.NewReply(452, "4.3.1", "insufficient system storage").WithCause(err)
	case errors.Is(err, wal.ErrTooLarge):
		return mail.NewReply(552, "5.3.4", "message too big for system").WithCause(err)
	}
	return mail.NewReply(451, "4.3.0", "the message could not be stored, try again later").WithCause(err)
}

// spaceEvery is how often the disk is asked how full it is.
const spaceEvery = 200 * time.Millisecond

// spaceCheck remembers for a moment whether the disk has room.
type spaceCheck struct {
	asked atomic.Int64 // Unix time in nanoseconds
	full  atomic.Bool
	// blocked is what to say while the log cannot go on, for example because
	// the file system has turned read-only.
	blocked atomic.Pointer[mail.Reply]
}

func (c *spaceCheck) block(err error) {
	if err == nil {
		c.blocked.Store(nil)
		return
	}
	c.blocked.Store(refusal(err))
}

// Ready tells whether a message would be taken now: nil, or the reply to give
// instead. It costs next to nothing.
func (s *Spool) Ready() *mail.Reply {
	now := s.opts.Now().UnixNano()
	last := s.space.asked.Load()
	if d := now - last; (d < 0 || d >= int64(spaceEvery)) && s.space.asked.CompareAndSwap(last, now) {
		free, size, err := s.opts.FS.Space(s.opts.Dir)
		reserve := s.reserve(size)
		full := err == nil && free < reserve
		if s.space.full.Swap(full) != full {
			s.opts.Log.Warn("disk reserve", "refusing", full, "free", free, "reserve", reserve)
		}
		s.space.block(s.log.Blocked())
	}
	if s.space.full.Load() {
		return mail.NewReply(452, "4.3.1", "insufficient system storage")
	}
	return s.space.blocked.Load()
}

// reserve is how much of a disk of this size stays free.
func (s *Spool) reserve(size uint64) uint64 {
	if s.opts.Reserve != 0 {
		return s.opts.Reserve
	}
	return min(size/50, 1<<30)
}
