package limits

import (
	"fmt"
	"time"

	"github.com/clrelay/clrelay/internal/config/words"
	"github.com/clrelay/clrelay/internal/limit"
)

// Doubt is a reason why a limit does less, or more, than one would think.
type Doubt struct {
	Part  string // the setting that it is about; empty: the whole limit
	Text  string
	Never bool // what is written can't ever hold
}

// Doubts are those about a definition, whoever wrote it.
func Doubts(d *limit.Definition) (list []Doubt) {
	if n := never(d); n.Text != "" {
		if list = append(list, n); n.Part == "" {
			return list
		}
	}
	if first := first(d.Rate); d.Side == limit.Receive && first > patience {
		list = append(list, Doubt{Part: "rate", Text: fmt.Sprintf("%v: what is counted begins with nothing, at a start and when the limit is added: for the first %v, and for longer in a cluster, all clients are told 450", d.Rate, words.Duration(first.Round(time.Second)))})
	}
	return list
}

// patience is how long clients may be sent away after a start without a word
// about it.
const patience = 10 * time.Second

// first is how long an empty bucket takes for its first token.
func first(r limit.Rate) time.Duration {
	if r.N == 0 {
		return 0
	}
	return r.Per / time.Duration(r.N)
}

// never says why a definition, or its connections, will not apply to anything.
func never(d *limit.Definition) (n Doubt) {
	counted := append([]limit.Field(nil), d.Per...)
	for f, values := range d.Match {
		if len(values) > 0 {
			counted = append(counted, limit.Field(f))
		}
	}
	for _, f := range counted {
		switch {
		case f == limit.User:
			// Only a warning: nodes of a later version may know it.
			n.Text = "counts by user or matches users, and this version cannot check a login: it never applies"
		case d.Side != limit.Receive:
		case f == limit.Site || f == limit.Source || f == limit.Route:
			return Doubt{Never: true, Text: fmt.Sprintf("counts by %v or matches it, which is not known when mail is taken: it never applies; on: delivery knows it", f)}
		case f == limit.RecipientDomain && d.Count != limit.Recipients && !d.Suspended:
			return Doubt{Never: true, Text: "counts by domain or matches domains, which is known of recipients alone: with on: receiving it takes count: recipients"}
		case d.Connections > 0 && f != limit.Client && f != limit.Group:
			return Doubt{Part: "connections", Never: true, Text: fmt.Sprintf("counts by %v or matches it, which is not known when a client connects: it never applies to connections", f)}
		}
	}
	return n
}
