package spooltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
	"github.com/clrelay/clrelay/spool"
)

// ErrContent is how content fails that a Workload gives up half-way.
var ErrContent = errors.New("the client has gone")

// Workload does to a spool what a relay does, one thing after another, as its
// seed says.
type Workload struct {
	Ledger *Ledger
	// Sizes are those of the messages; the default fits a log of 64 KiB files
	// and has some in one chunk and some in several.
	Sizes []int
	// KeepOld is the share of messages that are deferred again and again
	// instead of being finished, one in that many; 0: none.
	KeepOld int

	rnd  *rand.Rand
	tick uint32
}

// NewWorkload makes a workload with an empty ledger.
func NewWorkload(seed uint64) *Workload {
	return &Workload{
		Ledger: NewLedger(), KeepOld: 5,
		Sizes: []int{0, 1, 300, 2000, 7000, 16 << 10, 20_000, 50_000},
		rnd:   rand.New(rand.NewPCG(seed, 0xb055)),
	}
}

// Step does one thing.
func (w *Workload) Step(s *spool.Spool) error {
	open := w.Ledger.Open()
	switch n := w.rnd.IntN(20); {
	case n < 7 || len(open) == 0:
		return w.Accept(s)
	case n == 7:
		return w.giveUp(s)
	case n == 8:
		return s.Compact()
	case n < 12:
		return w.attempt(s, open[w.rnd.IntN(len(open))])
	}
	return w.settle(s, open[w.rnd.IntN(len(open))])
}

// Envelope makes an envelope with n recipients.
func (w *Workload) Envelope(n int) *mail.Envelope {
	w.tick++
	env := &mail.Envelope{
		From:    mail.Address{Local: fmt.Sprint("from", w.tick), Domain: "example.org"},
		Arrived: time.UnixMilli(1_700_000_000_000 + int64(w.tick)),
		Client:  mail.Client{Helo: "client.example", Protocol: "ESMTP"},
	}
	env.ID = mail.NewID(env.Arrived)
	for i := range n {
		env.Recipients = append(env.Recipients, mail.Recipient{Addr: mail.Address{Local: fmt.Sprint("to", i), Domain: "example.edu"}})
	}
	return env
}

func (w *Workload) body() []byte {
	b := make([]byte, w.Sizes[w.rnd.IntN(len(w.Sizes))])
	for i := range b {
		b[i] = byte(w.rnd.Uint32())
	}
	return b
}

// Accept has the spool take a message of one to three recipients.
func (w *Workload) Accept(s *spool.Spool) error {
	env, body := w.Envelope(1+w.rnd.IntN(3)), w.body()
	w.Ledger.Asked(env, body, false)
	if _, err := s.Accept(context.Background(), env, bytes.NewReader(body)); err != nil {
		return fmt.Errorf("accepting %s: %w", env.ID, err)
	}
	w.Ledger.Acked(env.ID)
	return nil
}

// giveUp has content fail on the way.
func (w *Workload) giveUp(s *spool.Spool) error {
	env, body := w.Envelope(1), w.body()
	w.Ledger.Asked(env, body, true)
	_, err := s.Accept(context.Background(), env, io.MultiReader(bytes.NewReader(body), failing{}))
	if err != ErrContent {
		return fmt.Errorf("content that failed gives %w", err)
	}
	return nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, ErrContent }

func (w *Workload) attempt(s *spool.Spool, id mail.ID) error {
	m, ok := s.Find(id)
	if !ok {
		return fmt.Errorf("message %s cannot be found", id)
	}
	rcpt := w.rnd.IntN(m.Recipients())
	if w.last(id, rcpt).State.Final() {
		return nil
	}
	if err := s.Attempt(m, []int{rcpt}).Wait(); err != nil {
		return err
	}
	w.Ledger.Tried(id, rcpt)
	return nil
}

func (w *Workload) last(id mail.ID, rcpt int) Standing {
	states := w.Ledger.Entry(id).Rcpts[rcpt].States
	return states[len(states)-1]
}

// settle gives some recipients of a message a result.
func (w *Workload) settle(s *spool.Spool, id mail.ID) error {
	m, ok := s.Find(id)
	if !ok {
		return fmt.Errorf("message %s cannot be found", id)
	}
	old := w.KeepOld > 0 && int(id[15])%w.KeepOld == 0
	to := map[int]Standing{}
	var results []spool.Result
	for i := range m.Recipients() {
		if w.last(id, i).State.Final() || w.rnd.IntN(3) == 0 {
			continue
		}
		w.tick++
		st := Standing{State: mail.StateDelivered + mail.State(w.rnd.IntN(3)), Attempts: w.tick}
		if old || w.rnd.IntN(4) == 0 {
			st = Standing{State: mail.StateDeferred, Attempts: w.tick, Next: int64(1_800_000_000 + w.tick)}
		}
		orders := w.order(&st, w.last(id, i).Orders)
		to[i] = st
		r := spool.Result{Orders: orders, Recipient: i, State: st.State, Attempts: st.Attempts, Reply: mail.Reply{Code: 250, Text: "ok"}, Remote: "mx.example:25"}
		if st.Next > 0 {
			r.Next = time.Unix(st.Next, 0)
		}
		results = append(results, r)
	}
	if len(to) == 0 {
		return nil
	}
	w.Ledger.Settling(id, to)
	do, durable := s.Settle, w.rnd.IntN(4) == 0
	if durable {
		do = s.SettleDurable
	}
	if err := do(m, results); err != nil {
		return err
	}
	if durable {
		w.Ledger.Durable()
	}
	return nil
}

// order lets an operator say something of some of the recipients that have no
// final result: it changes what st says, and gives what is to be recorded. old
// is what was said before, and holds if nothing is.
func (w *Workload) order(st *Standing, old spool.Orders) *spool.Orders {
	if st.State.Final() {
		return nil
	}
	var out *spool.Orders
	said := old
	switch w.rnd.IntN(6) {
	case 0:
		said = spool.Orders{Route: "smarthost:other.example:25", EndMS: 1_900_000_000_000}
		out = &said
	case 1:
		st.State = mail.StateHeld
		said.Rule = "r1"
		out = &said
	case 2:
		st.State = mail.StateTrashed
		said.Back = mail.StateHeld
		out = &said
	case 3:
		st.State, st.Next = mail.StateActive, 0
	}
	st.Orders = said.For(st.State)
	return out
}
