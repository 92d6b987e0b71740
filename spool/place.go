package spool

import (
	"fmt"
	"io"
	"time"

	"github.com/clrelay/clrelay/spool/state"
)

// Bounds of moving a message from segment to segment, before its client is
// told to come back.
const (
	movesMax = 8
	moveFor  = 10 * time.Second
)

// moving is what an intake knows in a cluster, where the segment may end
// before the message has.
type moving struct {
	picked uint64        // the segment that Pick named, if joined
	joined bool          // Arrived is owed
	source []state.Chunk // what is to be appended again: where it lies, in another segment
	moves  int
	since  time.Time // the first move
}

// join picks a segment, if the message has none.
func (in *intake) join() (err error) {
	p := in.s.opts.Placement
	if p == nil || in.joined {
		return nil
	}
	in.picked, _, err = p.Pick()
	in.joined = err == nil
	return err
}

// arrived says that nothing more of the message comes to its segment.
func (in *intake) arrived() {
	if in.joined {
		in.joined = false
		in.s.opts.Placement.Arrived(in.picked)
	}
}

// takeBack undoes on the books what a put has appended. The message had that
// many chunks before.
func (in *intake) takeBack(had int) {
	s := in.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unpend(in.chunks[had:])
	in.chunks = in.chunks[:had]
	if in.commit != 0 {
		s.state.Unpend(in.commit)
		in.g.Waited(in.m) // if it was adopted, the segment's end makes it void
		in.commit, in.m = 0, nil
	}
}

// moved leaves a segment that takes no more: what the message has there is to
// be appended again. why is the error that tells so.
func (in *intake) moved(why error) error {
	now := in.s.opts.Now()
	if in.moves++; in.moves == 1 {
		in.since = now
	}
	if in.moves > movesMax || now.Sub(in.since) > moveFor {
		return fmt.Errorf("moved %d times in %v: %v", in.moves, now.Sub(in.since), why)
	}
	if in.source == nil {
		in.source = in.chunks // all there is
	} else {
		in.s.mu.Lock()
		in.s.unpend(in.chunks) // a part of the source
		in.s.mu.Unlock()
	}
	in.g, in.chunks, in.more = nil, nil, nil
	in.arrived()
	return nil
}

// again appends what the message had in another segment, read back from the
// own log.
func (in *intake) again() error {
	if len(in.source) == 0 {
		in.source = nil
		return nil
	}
	s := in.s
	buf, back := s.buffers.Second(s.limit)
	src := s.read.Chunks(in.source)
	for {
		n, err := io.ReadFull(src, *buf)
		if n == 0 && err == io.EOF {
			break
		}
		if err == nil || err == io.ErrUnexpectedEOF {
			err = in.put((*buf)[:n], false)
		}
		if err != nil {
			back(in.dirty)
			in.dirty = false // the message's own buffer is not
			return err
		}
	}
	back(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unpend(in.source)
	in.source = nil
	return nil
}
