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
	buf, err := s.buffers.get(ctx)
	if err != nil {
		return nil, mail.NewReply(451, "4.3.2", "system busy, try again later").WithCause(fmt.Errorf("spool: waiting for a buffer: %w", err))
	}
	in := &intake{s: s, env: env, buf: buf}
	m, err := in.run(content)
	in.release()
	if err != nil {
		return nil, err
	}
	s.opts.Metrics.Accepted.Inc()
	s.opts.Accepted(m, env)
	return m, nil
}

// intake is a message that is arriving.
type intake struct {
	s      *Spool
	env    *mail.Envelope
	buf    *[]byte
	dirty  bool // the log may still read buf
	g      *state.Segment
	first  uint64
	header [record.ChunkHeaderLen]byte
	data   [2][]byte // of the chunk record
	recs   [2]wal.Record
	chunks []state.Chunk
	more   []uint32
	commit wal.Pos // of the commit record, once it is appended
	length int64   // of it on the disk
	size   uint64
	crc    uint32
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
			in.abort("content failed", 0)
			return nil, err
		}
		if eof {
			return in.finish(n)
		}
		c, err := in.append(n, false)
		if err == nil {
			// The next chunk goes into the same buffer.
			err = in.wait(c.WaitWritten)
		}
		if err != nil {
			in.abort("not stored", 0)
			return nil, refusal(err)
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
			in.buf = in.s.buffers.larger(in.buf, in.s.limit)
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

// append puts a chunk of n octets into the log, with the commit record behind
// it if it is the last one.
func (in *intake) append(n int, last bool) (*wal.Commit, error) {
	s := in.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, wal.ErrClosed
	}
	if in.g == nil {
		g, err := s.openSegment()
		if err != nil {
			return nil, err
		}
		in.g, in.first = g, g.Last+1
		g.Arriving++
	}
	recs := in.recs[:0]
	seq := in.g.Last
	more := in.more
	if n > 0 || len(in.chunks) == 0 {
		seq++
		record.AppendChunkHeader(in.header[:0], in.first, uint32(len(in.chunks)))
		in.data = [2][]byte{in.header[:], (*in.buf)[:n]}
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
	c, err := s.log.Append(recs...)
	if err != nil {
		return nil, err
	}
	in.dirty = true
	in.g.Last, in.more = seq, more
	if withChunk {
		in.chunks = append(in.chunks, state.Chunk{Pos: c.Pos(0), Len: uint32(n + record.ChunkHeaderLen)})
	}
	for i := range recs {
		s.state.Pend(c.Pos(i))
	}
	if last {
		in.commit = c.Pos(len(recs) - 1)
	}
	s.wrote(c)
	return c, nil
}

func (in *intake) record(kind uint8, seq uint64, data [][]byte) wal.Record {
	return wal.Record{Header: wal.Header{Segment: in.g.ID, Epoch: in.g.Epoch, Seq: seq, Kind: wal.Kind(kind)}, Data: data}
}

// wait waits for the log; the buffer is ours again if it went well.
func (in *intake) wait(on func() error) error {
	err := on()
	if err == nil {
		in.dirty = false
	}
	return err
}

// finish commits the message with its last n octets and waits until it is
// durable on every copy.
func (in *intake) finish(n int) (*Message, error) {
	c, err := in.append(n, true)
	if err != nil {
		in.abort("not stored", 0)
		return nil, refusal(err)
	}
	if err := in.wait(c.WaitDurable); err != nil {
		return nil, refusal(err)
	}
	m := state.NewMessage(in.env, &state.Arrival{
		Segment: in.g, First: in.first, Size: in.size, Chunks: in.chunks, Commit: in.commit, CommitSize: in.length,
	})
	s := in.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Unpend(in.commit)
	s.unpend(in.chunks)
	s.state.Enter(m)
	s.counts.Accepted++
	in.leave()
	return m, nil
}

// leave ends the message's time as one that is arriving. s.mu is held.
func (in *intake) leave() {
	in.g.Arriving--
	if err := in.s.sealIfQuiet(in.g); err != nil {
		in.s.opts.Log.Warn("sealing a segment", "segment", in.g.ID, "err", err)
	}
}

// abort undoes what the books have of the message and tells the log, so that
// other copies can forget the chunks. commit is where the commit record lies,
// if one was written: the abort kills it.
func (in *intake) abort(why string, commit wal.Pos) {
	if in.g == nil {
		return
	}
	s := in.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unpend(in.chunks)
	if commit != 0 {
		s.state.Unpend(commit)
	}
	if len(in.chunks) > 0 {
		// Without the record the chunks are as dead; only a commit would live.
		c, err := s.append(in.record(record.KindAbort, in.first, [][]byte{record.AppendAbort(nil, why, commit.File())}))
		switch {
		case err == nil && commit != 0:
			s.state.Killed(c.Pos(0), commit.File())
		case err != nil && !errors.Is(err, wal.ErrClosed):
			s.opts.Log.Warn("recording an aborted message", "id", in.env.ID, "err", err)
		}
	}
	in.leave()
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
		in.s.buffers.abandon(in.buf)
		return
	}
	in.s.buffers.put(in.buf)
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
		reserve := s.opts.Reserve
		if reserve == 0 {
			reserve = min(size/50, 1<<30)
		}
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
