// Package books counts, for each file of the log, what in it is still needed,
// and knows the records that are needed for what they say by themselves:
// deliveries that were announced and segments that were forgotten. It reads
// nothing. Package state, its only user, guards it.
package books

import (
	"maps"
	"slices"
)

// Books keep, for each file of the log, what in it is still needed.
//
// A record is needed for one of three reasons. It is live: the index, a
// segment or an attempt under way points to it. It is pending: it holds a
// chunk of a message that is still arriving. Or it is a killer: the record
// that finished a message whose commit record lies in another file, its
// victim; if the killer went first, a restart would bring the message back.
type Books struct {
	files map[uint32]*Page
	// stale are files that recovery found to hold older copies of commit
	// records that compaction had copied before a crash. A killer names the
	// newest copy alone, so until the stale ones are gone every killer stays
	// (ghosts: victims that are gone, but not to be forgotten yet).
	stale, ghosts map[uint32]bool
	dropped       int64 // octets that ceased to be live since the last compaction
	emptied       bool  // a file has become empty since
}

// Page is what the books know about one file.
type Page struct {
	Refs    int            // live records, one a recipient for results
	bytes   int64          // of them
	Pending int            // chunks of messages that are still arriving
	kills   map[uint32]int // victim -> killers in this file
}

// killerSize is what a killer counts in the ratio of live octets to all: the
// usual size of a result record.
const killerSize = 160

// New makes empty books.
func New() *Books {
	return &Books{files: map[uint32]*Page{}, stale: map[uint32]bool{}, ghosts: map[uint32]bool{}}
}

// Page gives that of a file, a new one if there was none.
func (b *Books) Page(file uint32) *Page {
	p := b.files[file]
	if p == nil {
		p = &Page{}
		b.files[file] = p
	}
	return p
}

// Add notes a live record.
func (b *Books) Add(file uint32, size int64) {
	p := b.Page(file)
	p.Refs++
	p.bytes += size
}

// Drop notes that a record is live no more.
func (b *Books) Drop(file uint32, size int64) {
	p := b.Page(file)
	p.Refs--
	p.bytes -= size
	b.dropped += size
	b.emptied = b.emptied || !p.Needed()
}

// Moved takes a live record from one file to another.
func (b *Books) Moved(from, to uint32, size int64) {
	b.Drop(from, size)
	b.Add(to, size)
}

// Kill notes a killer and its victim, by their files. One that lies in the same file as its
// victim goes with it and needs no note.
func (b *Books) Kill(killer, victim uint32) {
	if killer == victim {
		return
	}
	p := b.Page(killer)
	if p.kills == nil {
		p.kills = map[uint32]int{}
	}
	p.kills[victim]++
}

// Exists tells whether a killer of that victim is still needed.
func (b *Books) Exists(victim uint32) bool {
	return b.files[victim] != nil || b.ghosts[victim]
}

// Any tells whether one of the files from to upto exists.
func (b *Books) Any(from, upto uint32) bool {
	for f := range b.files {
		if from <= f && f <= upto {
			return true
		}
	}
	return false
}

// Freed notes that a file is gone, durably, and with it whatever it held.
func (b *Books) Freed(file uint32) {
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

// Needed tells whether anything in the file is.
func (p *Page) Needed() bool { return p.Refs > 0 || p.Pending > 0 || len(p.kills) > 0 }

// Live is about how many octets of the file are needed.
func (p *Page) Live() int64 {
	n := p.bytes
	for _, k := range p.kills {
		n += int64(k) * killerSize
	}
	return n
}

// Stale notes that a file holds older copies of records that were moved.
func (b *Books) Stale(file uint32) { b.stale[file] = true }

// IsStale tells whether it does.
func (b *Books) IsStale(file uint32) bool { return b.stale[file] }

// Copied notes that the killers of a file lie elsewhere, too, and tells how
// many live records do not.
func (b *Books) Copied(file uint32) int {
	p := b.Page(file)
	p.kills = nil
	return p.Refs
}

// Live is about how many octets of all files are needed.
func (b *Books) Live() (n int64) {
	for _, p := range b.files {
		n += p.Live()
	}
	return n
}

// Changed tells whether, since the last call of Look, a file has become empty
// or much has ceased to be live.
func (b *Books) Changed(much int64) bool { return b.emptied || b.dropped > much }

// Look begins a new account for Changed.
func (b *Books) Look() { b.emptied, b.dropped = false, 0 }
