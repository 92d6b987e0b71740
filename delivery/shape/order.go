package shape

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/clrelay/clrelay/internal/limit"
)

// Orders is the space of the limits that operators have set: "limit/NAME".
const Orders = "limit/"

// order is a limit as an operator's record holds it. Fields of a definition
// stand there by name, so that a later version may have others.
type order struct {
	Side        limit.Side          `json:"side,omitempty"`
	Match       map[string][]string `json:"match"`
	Per         []string            `json:"per,omitempty"`
	Count       limit.Unit          `json:"count,omitempty"`
	Rate        limit.Rate          `json:"rate,omitzero"`
	Burst       int64               `json:"burst,omitempty"`
	Connections int                 `json:"connections,omitempty"`
	Budget      limit.Rate          `json:"budget,omitzero"`
	OnPartition limit.Partition     `json:"on_partition,omitempty"`
	Suspended   bool                `json:"suspended,omitempty"`
	Reason      string              `json:"reason"`
	Author      string              `json:"author"`
	Until       time.Time           `json:"until,omitzero"`
}

// WriteOrder gives the record of an operator's limit, but for its name.
func WriteOrder(d *limit.Definition) []byte {
	o := order{
		Side: d.Side, Match: map[string][]string{}, Count: d.Count, Rate: d.Rate, Burst: d.Burst, Connections: d.Connections, Budget: d.Budget,
		OnPartition: d.OnPartition, Suspended: d.Suspended, Reason: d.Reason, Author: d.Author, Until: d.Until,
	}
	for f, values := range d.Match {
		if len(values) > 0 {
			o.Match[limit.Field(f).String()] = values
		}
	}
	for _, f := range d.Per {
		o.Per = append(o.Per, f.String())
	}
	b, _ := json.Marshal(&o) // texts, numbers and times can be written
	return b
}

// ParseOrder reads what WriteOrder gave. A field that this version does not
// know is an error: without it the limit would be for more than it is to be.
func ParseOrder(name string, value []byte) (limit.Definition, error) {
	var o order
	if err := json.Unmarshal(value, &o); err != nil {
		return limit.Definition{}, fmt.Errorf("shape: limit %s: %w", name, err)
	}
	d := limit.Definition{
		Name: name, Side: o.Side, Count: o.Count, Rate: o.Rate, Burst: o.Burst, Connections: o.Connections, Budget: o.Budget,
		OnPartition: o.OnPartition, Suspended: o.Suspended, Reason: o.Reason, Author: o.Author, Until: o.Until,
	}
	for word, values := range o.Match {
		f, ok := limit.ParseField(word)
		if !ok {
			return limit.Definition{}, fmt.Errorf("shape: limit %s: it goes by %q, which this version does not know", name, word)
		}
		d.Match[f] = values
	}
	for _, word := range o.Per {
		f, ok := limit.ParseField(word)
		if !ok {
			return limit.Definition{}, fmt.Errorf("shape: limit %s: it counts by %q, which this version does not know", name, word)
		}
		d.Per = append(d.Per, f)
	}
	if err := d.Check(); err != nil {
		return limit.Definition{}, fmt.Errorf("shape: %w", err)
	}
	return d, nil
}
