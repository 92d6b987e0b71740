// Package keep holds idle connections until somebody needs one to the same
// place.
package keep

import "slices"

// Idle holds connections by what they can be used for, and by a tag: those of
// one tag count together. It is not safe for concurrent use.
type Idle[K comparable, C comparable] struct {
	byKey map[K][]entry[C] // the last one was used last
	tags  map[string]int   // how many there are of a tag that is not empty
	count int
	seq   uint64
}

type entry[C comparable] struct {
	c   C
	tag string
	seq uint64
}

// Len is how many there are.
func (i *Idle[K, C]) Len() int { return i.count }

// Tagged tells whether there is one of a tag, or with an empty one any.
func (i *Idle[K, C]) Tagged(tag string) bool { return i.tags[tag] > 0 || tag == "" && i.count > 0 }

// Put keeps a connection.
func (i *Idle[K, C]) Put(k K, tag string, c C) {
	if i.byKey == nil {
		i.byKey, i.tags = map[K][]entry[C]{}, map[string]int{}
	}
	i.seq++
	i.byKey[k] = append(i.byKey[k], entry[C]{c, tag, i.seq})
	i.count++
	if tag != "" {
		i.tags[tag]++
	}
}

// Take gives the connection that was used last: those that are not needed grow
// old together.
func (i *Idle[K, C]) Take(k K) (c C, ok bool) {
	list := i.byKey[k]
	if len(list) == 0 {
		return c, false
	}
	return i.drop(k, len(list)-1), true
}

// Remove takes a connection away and tells whether it was there.
func (i *Idle[K, C]) Remove(k K, c C) bool {
	at := slices.IndexFunc(i.byKey[k], func(e entry[C]) bool { return e.c == c })
	if at >= 0 {
		i.drop(k, at)
	}
	return at >= 0
}

// Oldest takes the one of a tag that was used longest ago, or with an empty one
// of all.
func (i *Idle[K, C]) Oldest(tag string) (c C, ok bool) {
	if !i.Tagged(tag) {
		return c, false
	}
	var key K
	place, first := -1, uint64(0)
	for k, list := range i.byKey {
		for n := range list {
			if (list[n].tag == tag || tag == "") && (place < 0 || list[n].seq < first) {
				key, place, first = k, n, list[n].seq
			}
		}
	}
	return i.drop(key, place), true
}

// All takes those of a key away, or with ok false those of every key.
func (i *Idle[K, C]) All(k K, ok bool) (all []C) {
	for key, list := range i.byKey {
		if ok && key != k {
			continue
		}
		for n := len(list) - 1; n >= 0; n-- {
			all = append(all, i.drop(key, n))
		}
	}
	return all
}

// drop takes the n-th connection of a key off its list.
func (i *Idle[K, C]) drop(k K, n int) C {
	e := i.byKey[k][n]
	list := slices.Delete(i.byKey[k], n, n+1)
	if len(list) == 0 {
		delete(i.byKey, k)
	} else {
		i.byKey[k] = list
	}
	i.count--
	if e.tag != "" {
		if i.tags[e.tag]--; i.tags[e.tag] == 0 {
			delete(i.tags, e.tag)
		}
	}
	return e.c
}
