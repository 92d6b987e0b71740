// Package tally counts who has most, of more names than can be kept: senders,
// domains, clients, replies. It is the space-saving sketch (Metwally, Agrawal,
// El Abbadi, 2005) over the last hour and the last day: memory is bounded
// whatever comes, a name with much is never missing, and each count comes with
// how far it may be above the truth.
//
// A Tally may be used by many goroutines; Add takes some hundred nanoseconds
// under a lock and belongs off any hot path.
package tally

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

// names is how many a sketch tells apart.
const names = 512

// maxName bounds the octets of a name.
const maxName = 320

// Row is one name.
type Row struct {
	Name  string
	Count int64 // at most this many
	Error int64 // and at least Count - Error
}

// Tally counts one kind of names.
type Tally struct {
	mu   sync.Mutex
	hour window
	day  window
}

// New makes an empty Tally.
func New() *Tally {
	return &Tally{
		hour: window{step: 10 * time.Minute, parts: make([]*sketch, 6)},
		day:  window{step: time.Hour, parts: make([]*sketch, 24)},
	}
}

// Add counts n more of a name.
func (t *Tally) Add(now time.Time, name string, n int64) {
	if len(name) > maxName {
		name = name[:maxName]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hour.at(now).add(name, n)
	t.day.at(now).add(name, n)
}

// Top gives the n names with most, of the last day or, where span is at most
// an hour, of the last hour. Both begin at a round time: they are up to a sixth
// of the hour, or an hour of the day, shorter.
func (t *Tally) Top(now time.Time, span time.Duration, n int) []Row {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &t.hour
	if span > time.Hour {
		w = &t.day
	}
	w.at(now) // forgets what is too old
	return Merge(n, w.rows()...)
}

// window is a ring of sketches, each of a part of the time.
type window struct {
	step  time.Duration
	parts []*sketch
	last  int64 // number of the newest part
}

// at gives the sketch of now and drops those that are too old.
func (w *window) at(now time.Time) *sketch {
	i, n := now.UnixNano()/int64(w.step), int64(len(w.parts))
	i = max(i, w.last) // a clock that was set back counts on
	for k := max(w.last+1, i-n+1); k <= i; k++ {
		w.parts[k%n] = nil
	}
	w.last = i
	if w.parts[i%n] == nil {
		w.parts[i%n] = &sketch{at: map[string]int{}}
	}
	return w.parts[i%n]
}

func (w *window) rows() (out [][]Row) {
	for _, s := range w.parts {
		if s != nil {
			out = append(out, s.rows())
		}
	}
	return out
}

// Merge adds lists up and gives the n names with most. A list may name a rest
// with an empty Name: its Count is what any name that is missing there may have
// had.
func Merge(n int, lists ...[]Row) []Row {
	sum := map[string]Row{}
	var rest int64
	for _, l := range lists {
		for _, r := range l {
			if r.Name == "" {
				rest += r.Count
			}
		}
	}
	for _, l := range lists {
		var own int64
		for _, r := range l {
			if r.Name == "" {
				own = r.Count
			}
		}
		for _, r := range l {
			if r.Name == "" {
				continue
			}
			s, ok := sum[r.Name]
			if !ok { // in the other lists it may have had as much as their least
				s = Row{Name: r.Name, Count: rest, Error: rest}
			}
			s.Count += r.Count - own
			s.Error += r.Error - own
			sum[r.Name] = s
		}
	}
	out := make([]Row, 0, len(sum))
	for _, r := range sum {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Row) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Error, b.Error), strings.Compare(a.Name, b.Name))
	})
	return out[:min(n, len(out))]
}

// sketch counts up to names names: a new one takes the place, and the count, of
// the one with least.
type sketch struct {
	at   map[string]int // place in heap
	heap []Row          // the least first
}

func (s *sketch) add(name string, n int64) {
	i, ok := s.at[name]
	switch {
	case ok:
	case len(s.heap) < names:
		name = strings.Clone(name) // it may be a part of something large
		s.heap = append(s.heap, Row{Name: name})
		i = len(s.heap) - 1
		s.at[name] = i
		i = s.up(i)
	default:
		least := &s.heap[0]
		delete(s.at, least.Name)
		name = strings.Clone(name)
		least.Name, least.Error = name, least.Count
		s.at[name], i = 0, 0
	}
	s.heap[i].Count += n
	s.down(i)
}

// rows lists what was counted, and what a name that is not there may have.
func (s *sketch) rows() []Row {
	out := slices.Clone(s.heap)
	if len(s.heap) == names {
		out = append(out, Row{Count: s.heap[0].Count})
	}
	return out
}

func (s *sketch) swap(i, j int) {
	s.heap[i], s.heap[j] = s.heap[j], s.heap[i]
	s.at[s.heap[i].Name], s.at[s.heap[j].Name] = i, j
}

func (s *sketch) up(i int) int {
	for i > 0 && s.heap[i].Count < s.heap[(i-1)/2].Count {
		s.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
	return i
}

func (s *sketch) down(i int) {
	for {
		least := i
		for _, c := range []int{2*i + 1, 2*i + 2} {
			if c < len(s.heap) && s.heap[c].Count < s.heap[least].Count {
				least = c
			}
		}
		if least == i {
			return
		}
		s.swap(i, least)
		i = least
	}
}
