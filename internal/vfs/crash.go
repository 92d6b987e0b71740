package vfs

import (
	"bytes"
	"maps"
	"math/rand/v2"
)

// CrashImage gives the file system as it may be found when the power fails
// now and comes back: what was synced is there, and of the rest each part may
// be there or not. The same seed makes the same choices; different seeds show
// nothing of it, all of it, only the older part, whole writes in any order,
// or writes torn at sectors. The image shares nothing with the original, has
// no locks and does not call the watcher.
func (m *Mem) CrashImage(seed uint64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := rand.New(rand.NewPCG(seed, 0x5eed))
	c := &crash{keep: chooser(r, m.seq), copies: map[*node]*node{}}
	img := NewMem()
	img.capacity = m.capacity
	img.root = c.copy(m.root)
	for _, n := range c.copies {
		if !n.isDir {
			img.used += uint64(len(n.data))
		}
	}
	return img
}

type crash struct {
	// keep decides about one sector of the change seq.
	keep   func(seq uint64, sector int64) bool
	copies map[*node]*node
}

// chooser picks one way to lose things.
func chooser(r *rand.Rand, last uint64) func(seq uint64, sector int64) bool {
	salt := r.Uint64()
	coin := func(seq uint64, sector int64, of uint64) bool {
		return rand.New(rand.NewPCG(seq^salt, uint64(sector))).Uint64N(of) > 0
	}
	cut := last - r.Uint64N(min(last, 8)+1)
	switch r.IntN(6) {
	case 0:
		return func(uint64, int64) bool { return false }
	case 1:
		return func(uint64, int64) bool { return true }
	case 2: // whole changes, in any order
		return func(seq uint64, _ int64) bool { return coin(seq, 0, 2) }
	case 3: // torn everywhere
		return func(seq uint64, sector int64) bool { return coin(seq, sector, 2) }
	case 4: // nearly everything arrived
		return func(seq uint64, sector int64) bool { return coin(seq, sector, 8) }
	default: // in order up to a point, where it is torn
		return func(seq uint64, sector int64) bool {
			return seq < cut || seq == cut && coin(seq, sector, 2)
		}
	}
}

func (c *crash) copy(n *node) *node {
	if done, ok := c.copies[n]; ok {
		return done
	}
	out := &node{isDir: n.isDir}
	c.copies[n] = out
	if !n.isDir {
		out.disk = c.content(n)
		out.data = bytes.Clone(out.disk)
		return out
	}
	left := maps.Clone(n.diskEntries)
	for _, d := range n.pendingDir {
		if !c.keep(d.seq, 0) {
			continue
		}
		if d.del != "" {
			delete(left, d.del)
		}
		if d.add != "" {
			left[d.add] = d.node
		}
	}
	out.entries = map[string]*node{}
	for name, child := range left {
		to := c.copy(child)
		to.links++
		out.entries[name] = to
	}
	out.diskEntries = maps.Clone(out.entries)
	return out
}

// content makes a file's content. A sector reaches the disk as the page cache
// has it at some moment: with the last write to it that is kept come all the
// earlier ones to the same sector.
func (c *crash) content(n *node) []byte {
	kept := map[int64]int{} // sector -> number of the last change kept, plus 1
	for i, ch := range n.pending {
		for s := ch.off / SectorSize; ch.data != nil && s*SectorSize < ch.off+int64(len(ch.data)); s++ {
			if c.keep(ch.seq, s) {
				kept[s] = i + 1
			}
		}
	}
	disk := bytes.Clone(n.disk)
	for i, ch := range n.pending {
		if ch.data == nil {
			if c.keep(ch.seq, 0) {
				disk = ch.apply(disk)
			}
			continue
		}
		for from := ch.off; from < ch.off+int64(len(ch.data)); {
			s := from / SectorSize
			to := min((s+1)*SectorSize, ch.off+int64(len(ch.data)))
			if i < kept[s] {
				disk = change{off: from, data: ch.data[from-ch.off : to-ch.off]}.apply(disk)
			}
			from = to
		}
	}
	return disk
}
