package state

import (
	"maps"
	"slices"

	"github.com/clrelay/clrelay/spool/wal"
)

// books keep, for each file of the log, what in it is still needed.
//
// A record is needed for one of three reasons. It is live: the index, a
// segment or an attempt under way points to it. It is pending: it holds a
// chunk of a message that is still arriving. Or it is a killer: the record
// that finished a message whose commit record lies in another file, its
// victim; if the killer went first, a restart would bring the message back.
type books struct {
	files map[uint32]*page
	// stale are files that recovery found to hold older copies of commit
	// records that compaction had copied before a crash. A killer names the
	// newest copy alone, so until the stale ones are gone every killer stays
	// (ghosts: victims that are gone, but not to be forgotten yet).
	stale, ghosts map[uint32]bool
	dropped       int64 // octets that ceased to be live since the last compaction
	emptied       bool  // a file has become empty since
}

// page is what the books know about one file.
type page struct {
	refs    int            // live records, one a recipient for results
	bytes   int64          // of them
	pending int            // chunks of messages that are still arriving
	kills   map[uint32]int // victim -> killers in this file
}

// killerSize is what a killer counts in the ratio of live octets to all: the
// usual size of a result record.
const killerSize = 160

func newBooks() books {
	return books{files: map[uint32]*page{}, stale: map[uint32]bool{}, ghosts: map[uint32]bool{}}
}

func (b *books) page(file uint32) *page {
	p := b.files[file]
	if p == nil {
		p = &page{}
		b.files[file] = p
	}
	return p
}

// add notes a live record.
func (b *books) add(pos wal.Pos, size int64) {
	p := b.page(pos.File())
	p.refs++
	p.bytes += size
}

// drop notes that a record is live no more.
func (b *books) drop(pos wal.Pos, size int64) {
	p := b.page(pos.File())
	p.refs--
	p.bytes -= size
	b.dropped += size
	b.emptied = b.emptied || !p.needed()
}

// moved takes a live record from one place to another.
func (b *books) moved(from, to wal.Pos, size int64) {
	b.drop(from, size)
	b.add(to, size)
}

// kill notes a killer and its victim. One that lies in the same file as its
// victim goes with it and needs no note.
func (b *books) kill(killer wal.Pos, victim uint32) {
	if killer.File() == victim {
		return
	}
	p := b.page(killer.File())
	if p.kills == nil {
		p.kills = map[uint32]int{}
	}
	p.kills[victim]++
}

// exists tells whether a killer of that victim is still needed.
func (b *books) exists(victim uint32) bool {
	return b.files[victim] != nil || b.ghosts[victim]
}

// any tells whether one of the files from to upto exists.
func (b *books) any(from, upto uint32) bool {
	for f := range b.files {
		if from <= f && f <= upto {
			return true
		}
	}
	return false
}

// freed notes that a file is gone, durably, and with it whatever it held.
func (b *books) freed(file uint32) {
	delete(b.files, file)
	delete(b.stale, file)
	gone := []uint32{file}
	switch {
	case len(b.stale) > 0:
		b.ghosts[file] = true
		return
	case len(b.ghosts) > 0:
		gone = slices.AppendSeq(gone, maps.Keys(b.ghosts))
		clear(b.ghosts)
	}
	for _, p := range b.files {
		for _, v := range gone {
			delete(p.kills, v)
		}
	}
}

func (p *page) needed() bool { return p.refs > 0 || p.pending > 0 || len(p.kills) > 0 }

// live is about how many octets of the file are needed.
func (p *page) live() int64 {
	n := p.bytes
	for _, k := range p.kills {
		n += int64(k) * killerSize
	}
	return n
}
