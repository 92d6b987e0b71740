package slab

// Links are those of a record in a List.
type Links struct{ next, prev uint32 }

// Next is the number of the record that follows, 0 at the end.
func (l *Links) Next() uint32 { return l.next }

// Prev is the number of the record before it, 0 at the start.
func (l *Links) Prev() uint32 { return l.prev }

// List is a doubly linked list of records by number, linked through the
// records. The zero List is empty.
type List struct{ head, tail uint32 }

// Find gives the links of a record.
type Find func(id uint32) *Links

// Head is the first record, 0 when there is none.
func (l *List) Head() uint32 { return l.head }

// Tail is the last record, 0 when there is none.
func (l *List) Tail() uint32 { return l.tail }

// Append puts a record at the end.
func (l *List) Append(id uint32, links Find) {
	*links(id) = Links{prev: l.tail}
	if l.tail != 0 {
		links(l.tail).next = id
	} else {
		l.head = id
	}
	l.tail = id
}

// Insert puts a record before another one; 0 is the end.
func (l *List) Insert(id, before uint32, links Find) {
	if before == 0 {
		l.Append(id, links)
		return
	}
	at := links(before)
	*links(id) = Links{next: before, prev: at.prev}
	if at.prev != 0 {
		links(at.prev).next = id
	} else {
		l.head = id
	}
	at.prev = id
}

// Remove takes out a record that is in the list.
func (l *List) Remove(id uint32, links Find) {
	at := links(id)
	if at.prev != 0 {
		links(at.prev).next = at.next
	} else {
		l.head = at.next
	}
	if at.next != 0 {
		links(at.next).prev = at.prev
	} else {
		l.tail = at.prev
	}
	*at = Links{}
}

// InsertFromHead puts a record behind those at the head of which pass is true,
// most at most.
func (l *List) InsertFromHead(id uint32, most int, links Find, pass func(id uint32) bool) {
	before := l.head
	for ; most > 0 && before != 0 && pass(before); most-- {
		before = links(before).next
	}
	l.Insert(id, before, links)
}

// InsertFromTail puts a record before those at the tail of which pass is true,
// most at most.
func (l *List) InsertFromTail(id uint32, most int, links Find, pass func(id uint32) bool) {
	before := uint32(0)
	for last := l.tail; most > 0 && last != 0 && pass(last); most-- {
		before, last = last, links(last).prev
	}
	l.Insert(id, before, links)
}

// JoinRing puts a record into a ring of records, behind all others as seen from
// first, which is 0 when there are none.
func JoinRing(first *uint32, id uint32, links Find) {
	if *first == 0 {
		*first, *links(id) = id, Links{next: id, prev: id}
		return
	}
	at := links(*first)
	*links(id) = Links{next: *first, prev: at.prev}
	links(at.prev).next = id
	at.prev = id
}

// LeaveRing takes a record out of its ring.
func LeaveRing(first *uint32, id uint32, links Find) {
	at := links(id)
	if at.next == id {
		*first = 0
		return
	}
	links(at.prev).next = at.next
	links(at.next).prev = at.prev
	if *first == id {
		*first = at.next
	}
}
