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
