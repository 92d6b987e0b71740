package state

import (
	"sync/atomic"
	"unique"

	"github.com/clrelay/clrelay/spool/record"
)

// orders are what operators said of recipients. Few have any, so they are no
// part of Message; those that say the same share it.
type orders struct {
	of  map[orderKey]unique.Handle[record.Orders]
	any atomic.Bool // there are some; may be asked without the lock
}

type orderKey struct {
	m    *Message
	rcpt uint16
}

func (o *orders) get(m *Message, rcpt int) record.Orders {
	if len(o.of) == 0 {
		return record.Orders{}
	}
	h, ok := o.of[orderKey{m, uint16(rcpt)}]
	if !ok {
		return record.Orders{}
	}
	return h.Value()
}

func (o *orders) set(m *Message, rcpt int, to record.Orders) {
	if to == (record.Orders{}) {
		o.drop(m, rcpt)
		return
	}
	if o.of == nil {
		o.of = map[orderKey]unique.Handle[record.Orders]{}
		o.any.Store(true)
	}
	o.of[orderKey{m, uint16(rcpt)}] = unique.Make(to)
}

func (o *orders) drop(m *Message, rcpt int) {
	if o.of == nil {
		return
	}
	delete(o.of, orderKey{m, uint16(rcpt)})
	if len(o.of) == 0 { // what it grew to is given back
		o.of = nil
		o.any.Store(false)
	}
}

func (o *orders) forget(m *Message) {
	for i := 0; i < int(m.n) && o.of != nil; i++ {
		o.drop(m, i)
	}
}

// AnyOrders tells whether operators said anything of any recipient. It needs
// no lock.
func (s *State) AnyOrders() bool { return s.orders.any.Load() }

// Orders gives what operators said of a message's recipients; nil when nothing.
func (s *State) Orders(m *Message) []record.Orders {
	var out []record.Orders
	for i := 0; i < int(m.n) && s.orders.of != nil; i++ {
		o := s.orders.get(m, i)
		if o == (record.Orders{}) {
			continue
		}
		if out == nil {
			out = make([]record.Orders, m.n)
		}
		out[i] = o
	}
	return out
}
