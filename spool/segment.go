package spool

import (
	"fmt"
	"slices"

	"github.com/clrelay/clrelay/spool/record"
	"github.com/clrelay/clrelay/spool/state"
	"github.com/clrelay/clrelay/spool/wal"
)

// openSegments is how many segments take messages at a time. With more nodes
// they will have different members, so that a slow one holds up only a part.
const openSegments = 2

// openSegment gives a segment for a new message, a fresh one in place of one
// that is full. s.mu is held.
func (s *Spool) openSegment() (*state.Segment, error) {
	s.turn = (s.turn + 1) % openSegments
	g := s.open[s.turn]
	if g != nil && !g.Full() {
		return g, nil
	}
	self := s.self()
	fresh := &state.Segment{Owned: true, View: record.View{
		ID: s.nextSegment, Epoch: 1, State: record.SegmentOpen, Owner: self, Members: []record.Member{self},
	}}
	if err := s.putHeader(fresh); err != nil {
		return nil, err
	}
	s.nextSegment++
	s.state.Open(fresh)
	s.open[s.turn] = fresh
	if g != nil {
		if err := s.sealIfQuiet(g); err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// sealIfQuiet seals a segment that takes no new messages once the last of its
// own has arrived. s.mu is held.
func (s *Spool) sealIfQuiet(g *state.Segment) error {
	if g.Arriving > 0 || g.State == record.SegmentSealed || slices.Contains(s.open[:], g) {
		return nil
	}
	g.State, g.End = record.SegmentSealed, g.Last
	if g.Empty() {
		s.state.Retire(g)
		return nil
	}
	return s.putHeader(g)
}

// putHeader appends the segment's header record, in place of the one before.
// s.mu is held.
func (s *Spool) putHeader(g *state.Segment) error {
	data := record.AppendSegment(nil, g.Header())
	c, err := s.append(wal.Record{
		Header: wal.Header{Segment: g.ID, Epoch: g.Epoch, Seq: g.Last, Kind: wal.Kind(record.KindSegment)},
		Data:   [][]byte{data},
	})
	if err != nil {
		return fmt.Errorf("spool: header of segment %d: %w", g.ID, err)
	}
	s.state.HeaderAt(g, c.Pos(0), wal.RecordSize(len(data)))
	g.Told()
	return nil
}

// self is this node as a member.
func (s *Spool) self() record.Member { return record.Member{Node: s.opts.Node, StoreID: s.store.ID} }
