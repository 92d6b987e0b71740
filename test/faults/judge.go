package faults

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// apartAtLeast is how long, by the protocol, one node's delivery of a message
// is before another node's: the lease it was made with ends 0.2 G before
// anybody else may own the segment. Something is left off for the logs' sake.
const apartAtLeast = 800 * time.Millisecond

// delivery is a line of a log.
type delivery struct {
	node int
	at   time.Time
}

// judge holds the books against what arrived and what the logs say.
type judge struct {
	f          *fleet
	checked    int // tries looked at
	open       []try
	accepted   int
	refused    int
	deliveries map[string][]delivery
	errors     map[string]int // lines of level ERROR, by message
	replies    map[string]int // what refused clients were told
	verdicts   []string
}

func newJudge(f *fleet) *judge {
	return &judge{f: f, deliveries: map[string][]delivery{}, errors: map[string]int{}, replies: map[string]int{}}
}

func (j *judge) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	j.verdicts = append(j.verdicts, text)
	j.f.o.Log("FAILED: %s", text)
}

// take looks at what the clients did since the last time.
func (j *judge) take() []try {
	list := j.f.load.since(j.checked)
	j.checked += len(list)
	for _, a := range list {
		if a.reply == "" {
			j.accepted++
			j.open = append(j.open, a)
		} else {
			j.refused++
			j.replies[a.reply]++
		}
	}
	return list
}

// missing are acknowledged messages that have not arrived.
func (j *judge) missing() []try {
	j.open = slices.DeleteFunc(j.open, func(a try) bool {
		if len(j.f.sink.Times(a.seq)) == 0 {
			return false
		}
		if sum, ok := j.f.sink.Sum(a.seq); !ok || sum != j.f.load.text.Sum(a.seq) {
			j.fail("message %d arrived with another content than it was sent with", a.seq)
		}
		return true
	})
	return j.open
}

// silences checks that nobody took mail who must not.
func (j *judge) silences(list []try, silent []silence) {
	for _, s := range silent {
		for _, a := range list {
			if a.node == s.node && a.reply == "" && a.ended.After(s.from) && a.ended.Before(s.to) {
				j.fail("%s answered 250 to message %d at %s, %v after it must have lost its lease",
					name(a.node), a.seq, a.ended.Format(clock), a.ended.Sub(s.from))
			}
		}
	}
}

const clock = "15:04:05.000"

// copies checks that what arrived more than once was counted.
func (j *judge) copies() (twice int, counted float64) {
	_, twice = j.f.sink.Distinct()
	counted = j.f.counted.sum()
	if float64(twice) > counted {
		j.fail("%d copies arrived more than once, and only %v possible duplicates were counted", twice, counted)
	}
	return twice, counted
}

// logs reads what the nodes wrote since the last time.
func (j *judge) logs() error {
	var errs []error
	for i := range j.f.o.Nodes {
		errs = append(errs, j.log(i))
	}
	return errors.Join(errs...)
}

func (j *judge) log(i int) error {
	file, err := os.Open(j.f.cluster.Nodes[i].LogPath())
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Seek(j.f.marks[i], io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReader(file)
	for {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			return nil // a line that is cut off is read the next time
		}
		if err != nil {
			return err
		}
		j.f.marks[i] += int64(len(line))
		j.line(i, line)
	}
}

func (j *judge) line(i int, line string) {
	switch {
	case strings.Contains(line, "event=delivered"):
		at, err := time.Parse(time.RFC3339Nano, field(line, "time"))
		if err != nil {
			j.fail("a line of the log without a time: %s", line)
			return
		}
		id := field(line, "id")
		j.deliver(id, delivery{i, at})
	case strings.Contains(line, "level=ERROR"):
		j.errors[name(i)+" "+field(line, "msg")]++
	case strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:"):
		j.fail("%s: %s", name(i), strings.TrimSpace(line))
	}
}

// deliver checks a delivery against those of the same message by other nodes.
func (j *judge) deliver(id string, d delivery) {
	for _, was := range j.deliveries[id] {
		first, last := was.at, d.at
		if last.Before(first) {
			first, last = last, first
		}
		// A line tells when the answer was read: one that was stopped behind its
		// final dot reads it when it goes on. The sink knows when the copies came.
		if was.node != d.node && last.Sub(first) < apartAtLeast && j.f.sink.Near(apartAtLeast, first.Add(-apartAtLeast), last) {
			j.fail("%s delivered message %s at %s, and %s at %s: too near", name(was.node), id, was.at.Format(clock), name(d.node), d.at.Format(clock))
		}
	}
	j.deliveries[id] = append(j.deliveries[id], d)
}

// field is a value of a line of key=value pairs.
func field(line, key string) string {
	i := strings.Index(line, key+"=")
	if i < 0 {
		return ""
	}
	rest := line[i+len(key)+1:]
	if strings.HasPrefix(rest, `"`) {
		rest = rest[1:]
		if end := strings.IndexByte(rest, '"'); end >= 0 {
			return rest[:end]
		}
		return rest
	}
	if end := strings.IndexAny(rest, " \n"); end >= 0 {
		return rest[:end]
	}
	return rest
}
