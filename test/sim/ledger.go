package sim

import "time"

// message is what a client sent and what became of it: the truth, against
// which the relay is held.
type message struct {
	id        int
	records   int
	acked     bool // a 250 was sent
	refused   bool
	seg       uint64 // where the copy lies that was acknowledged
	first     uint64
	commit    uint64
	delivered int  // times the next hop took it
	settled   bool // the owner has said that "delivered" is durable on all fresh members (I9)
}

// Stats counts what happened in a run.
type Stats struct {
	Steps, Sent, Acked, Refused, Delivered, Duplicates int
	Moved, Lost, Takeovers, Crashes, DisksLost         int
	Moves, Given, Stayed                               int // of backlog: begun, done, given up
	Entries, Segments                                  int
	Virtual                                            time.Duration
	Digest                                             uint64
}

func (s *Stats) add(o Stats) {
	s.Steps += o.Steps
	s.Sent += o.Sent
	s.Acked += o.Acked
	s.Refused += o.Refused
	s.Delivered += o.Delivered
	s.Duplicates += o.Duplicates
	s.Moved += o.Moved
	s.Lost += o.Lost
	s.Takeovers += o.Takeovers
	s.Moves += o.Moves
	s.Given += o.Given
	s.Stayed += o.Stayed
	s.Crashes += o.Crashes
	s.DisksLost += o.DisksLost
	s.Entries += o.Entries
	s.Segments += o.Segments
	s.Virtual += o.Virtual
}
