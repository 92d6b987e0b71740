package dnsx

import (
	"container/list"
	"sync"
	"time"
)

// question is what is asked for: a canonical name and a type.
type question struct {
	name string
	typ  Type
}

// entry is an answer, or that there is none, until it expires.
type entry struct {
	ans     *Answer
	missing *NotFoundError // instead of ans
	expires time.Time
}

func (e entry) size() int {
	if e.ans != nil {
		return e.ans.size()
	}
	return 200
}

// cache keeps entries until they expire, or until others need the room: the
// ones not used for longest go first. Safe for concurrent use.
type cache struct {
	maxEntries, maxBytes int

	mu    sync.Mutex
	items map[question]*list.Element
	order list.List // of *item, the last used one in front
	bytes int
}

type item struct {
	q    question
	e    entry
	size int
}

func newCache(maxEntries, maxBytes int) *cache {
	return &cache{maxEntries: maxEntries, maxBytes: maxBytes, items: map[question]*list.Element{}}
}

func (c *cache) get(q question, now time.Time) (entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.items[q]
	if !ok {
		return entry{}, false
	}
	it := el.Value.(*item)
	if !now.Before(it.e.expires) {
		c.drop(el)
		return entry{}, false
	}
	c.order.MoveToFront(el)
	return it.e, true
}

func (c *cache) put(q question, e entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.items[q]; ok {
		c.drop(el)
	}
	it := &item{q, e, e.size() + len(q.name)}
	if it.size > c.maxBytes {
		return
	}
	c.items[q] = c.order.PushFront(it)
	c.bytes += it.size
	for len(c.items) > c.maxEntries || c.bytes > c.maxBytes {
		c.drop(c.order.Back())
	}
}

func (c *cache) drop(el *list.Element) {
	it := c.order.Remove(el).(*item)
	delete(c.items, it.q)
	c.bytes -= it.size
}
