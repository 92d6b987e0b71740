package delivery_test

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/smtpc"
	"github.com/clrelay/clrelay/delivery/smtpc/smtpctest"
	"github.com/clrelay/clrelay/internal/mail"
)

// TestChaos lets many attempts at a time share the connections to hosts that
// do anything at any moment. In the end the books are compared: who was
// reported delivered is at the host, once for each attempt; who was not, and
// is not unsure, is not.
func TestChaos(t *testing.T) {
	conf, roots := certificate(t, "127.0.0.1")
	acts := []string{smtpctest.Close, smtpctest.Reset, "421 4.3.2 bye", "450 4.2.1 later", "452 4.5.3 too many", "550 5.1.1 no", "250-a\r\n550 b", "garbage",
		"354 what", "503 5.5.1 order"}
	for _, f := range []struct {
		name string
		ehlo []string
		tls  *tls.Config
		lmtp bool
	}{
		{"DATA", []string{}, nil, false},
		{"pipelining", nil, nil, false},
		{"BDAT", []string{"PIPELINING", "CHUNKING"}, nil, false},
		{"BDAT and TLS", []string{"CHUNKING"}, conf, false},
		{"LMTP", nil, nil, true},
	} {
		t.Run(f.name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, 2))
			s := &smtpctest.Server{Ehlo: f.ehlo, TLS: f.tls, LMTP: f.lmtp, Say: func(_ int, verb, _ string) string {
				if verb == "QUIT" || rnd.IntN(12) > 0 {
					return ""
				}
				if act := acts[rnd.IntN(len(acts))]; act != "354 what" || verb != "DATA" {
					return act
				}
				return ""
			}}
			hop := smarthost(listen(t, s))
			if f.lmtp {
				hop.Kind = mail.HopLMTP
			}
			a := agent(t, delivery.Options{RootCAs: roots, Limits: delivery.Limits{ConnMessages: 20}})
			const workers, each = 8, 40
			outs := make([][]mail.Outcome, workers*each)
			var wg sync.WaitGroup
			for w := range workers {
				wg.Go(func() {
					for i := range each {
						id := w*each + i
						at := message(fmt.Sprintf("Id: %d\r\n\r\n%s", id, strings.Repeat(hello, i*i)), "a", "b", "c")
						outs[id] = a.Deliver(t.Context(), hop, at)
					}
				})
			}
			wg.Wait()
			compare(t, s, outs)
		})
	}
}

func compare(t *testing.T, s *smtpctest.Server, outs [][]mail.Outcome) {
	t.Helper()
	type key struct{ id, to string }
	has := map[key]int{}
	for _, m := range s.Messages() {
		id, _, _ := strings.Cut(strings.TrimPrefix(string(m.Data), "Id: "), "\r\n")
		for _, to := range m.To {
			has[key{id, to}]++
		}
	}
	counts := map[string]int{}
	for id, out := range outs {
		if len(out) != 3 {
			t.Fatalf("%d outcomes, want 3", len(out))
		}
		for i, o := range out {
			n := has[key{fmt.Sprint(id), string("abc"[i]) + "@example.net"}]
			switch {
			case o.Unsure:
				counts["unsure"]++
				if n > 1 || !o.Reply.Temporary() {
					t.Errorf("message %d: unsure with %s, the host has it %d times", id, o.Reply.Error(), n)
				}
			case o.Reply.Positive():
				counts["delivered"]++
				if n != 1 {
					t.Errorf("message %d: delivered, the host has it %d times", id, n)
				}
			default:
				counts["not"]++
				if n != 0 {
					t.Errorf("message %d: %s, the host has it %d times", id, o.Reply.Error(), n)
				}
			}
		}
	}
	if counts["delivered"] == 0 || counts["not"] == 0 || counts["unsure"] == 0 {
		t.Errorf("not much was shown: %v", counts)
	}
	t.Logf("%v in %d sessions", counts, s.Sessions())
}

// TestShortPatience: a real connection under real time, whose host falls
// silent at each stage.
func TestShortPatience(t *testing.T) {
	for _, stage := range []string{smtpctest.Connect, "EHLO", "MAIL", "RCPT", "DATA", smtpctest.Dot} {
		s := &smtpctest.Server{Say: func(_ int, verb, _ string) string {
			if verb == stage {
				return smtpctest.Stall
			}
			return ""
		}}
		short := smtpc.Timeouts{Greeting: 1e7, Hello: 1e7, Mail: 1e7, Rcpt: 1e7, Data: 1e7, Block: 1e7, Done: 1e7, Quit: 1e7}
		a := agent(t, delivery.Options{Limits: delivery.Limits{Timeouts: short}})
		o := a.Deliver(t.Context(), smarthost(listen(t, s)), message(hello, "a"))
		if !strings.HasPrefix(o[0].Reply.Line(), "451 4.4.2") || o[0].Unsure != (stage == smtpctest.Dot) {
			t.Errorf("%s: %s", stage, o[0].Reply.Error())
		}
	}
}
