package smtpd_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/clrelay/clrelay/smtpd"
)

// randomContent gives a content that is legal in DATA: lines of all lengths
// with all octets but NUL and bare line ends, many of them beginning with dots.
func randomContent(r *rand.Rand) []byte {
	b := []byte("Subject: x\r\n\r\n")
	for range r.IntN(60) {
		b = append(b, strings.Repeat(".", r.IntN(4)*r.IntN(2))...)
		n := r.IntN(20)
		switch r.IntN(8) {
		case 0:
			n = r.IntN(5000)
		case 1:
			n = 0
		}
		for range n {
			c := byte(1 + r.IntN(255))
			if c == '\r' || c == '\n' {
				c = '.'
			}
			b = append(b, c)
		}
		b = append(b, '\r', '\n')
	}
	return b
}

// stuff doubles dots for DATA (RFC 5321 4.5.2).
func stuff(content []byte) []byte {
	out := bytes.ReplaceAll(content, []byte("\r\n."), []byte("\r\n.."))
	if bytes.HasPrefix(out, []byte(".")) {
		out = append([]byte("."), out...)
	}
	return out
}

// inPieces writes data in random pieces.
func inPieces(t *testing.T, w io.Writer, r *rand.Rand, data []byte) {
	t.Helper()
	for len(data) > 0 {
		n := 1 + r.IntN(len(data))
		if r.IntN(2) == 0 {
			n = 1 + r.IntN(min(len(data), 50))
		}
		if _, err := w.Write(data[:n]); err != nil {
			t.Fatal(err)
		}
		data = data[n:]
	}
}

// TestContentArrivesAsItWas sends random contents through DATA and BDAT in
// random pieces, to Acceptors that read in pieces of many sizes.
func TestContentArrivesAsItWas(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for _, buf := range []int{1, 3, 100, 4096, 1 << 20, 0} {
		t.Run(fmt.Sprintf("reads of %d", buf), func(t *testing.T) {
			w := start(t, setup{buf: buf, listener: smtpd.Listener{Binary: true}})
			p := w.greeted()
			for round := range rounds {
				seed := uint64(buf)<<32 | uint64(round)
				r := rand.New(rand.NewPCG(seed, 7))
				content := randomContent(r)
				switch round % 3 {
				case 0:
					p.envelope()
					p.do("DATA", "354 ")
					inPieces(t, p.conn, r, append(stuff(content), ".\r\n"...))
				case 1:
					p.envelope()
					chunks(t, p, r, content)
				case 2: // any octets
					for i := range content[14:] {
						content[14+i] = byte(r.IntN(256))
					}
					p.do("MAIL FROM:<a@client.test> BODY=BINARYMIME", "250 ")
					p.do("RCPT TO:<b@example.edu>", "250 ")
					chunks(t, p, r, content)
				}
				p.expect("250 2.0.0 Ok: queued as ")
				got := w.inbox.messages()
				if len(got) != round+1 {
					t.Fatalf("seed %d: %d messages", seed, len(got))
				}
				if !bytes.Equal(got[round].content(), content) {
					t.Fatalf("seed %d: content %q, want %q", seed, got[round].content(), content)
				}
			}
		})
	}
}

// chunks sends content by BDAT, in one go or waiting for each reply; the last
// reply is left for the caller.
func chunks(t *testing.T, p *peer, r *rand.Rand, content []byte) {
	t.Helper()
	n := 1 + r.IntN(6)
	wait := r.IntN(2) == 0
	var stream []byte
	for i := range n {
		from, to := i*len(content)/n, (i+1)*len(content)/n
		last := ""
		if i == n-1 {
			last = " last"
		}
		stream = append(fmt.Appendf(stream, "BDAT %d%s\r\n", to-from, last), content[from:to]...)
		if wait && i < n-1 {
			inPieces(t, p.conn, r, stream)
			stream = nil
			p.expect("250 ")
		}
	}
	inPieces(t, p.conn, r, stream)
	for i := 0; !wait && i < n-1; i++ {
		p.expect("250 ")
	}
}

// TestGoSMTPClient talks to us with another implementation's client.
func TestGoSMTPClient(t *testing.T) {
	id := newIdentity(t)
	w := start(t, setup{listener: smtpd.Listener{Certs: id.certs}})
	var wg sync.WaitGroup
	var mu sync.Mutex
	sent := map[[32]byte]int{}
	for worker := range 8 {
		wg.Go(func() {
			if err := goSMTPWorker(w, id, worker, func(content []byte) {
				mu.Lock()
				defer mu.Unlock()
				sent[sha256.Sum256(content)]++
			}); err != nil {
				t.Errorf("worker %d: %v", worker, err)
			}
		})
	}
	wg.Wait()
	for _, m := range w.inbox.messages() {
		sent[sha256.Sum256(m.content())]--
		if want := "b+tag@example.edu"; len(m.env.Recipients) != 1 || m.env.Recipients[0].Addr.String() != want {
			t.Errorf("recipients %+v", m.env.Recipients)
		}
	}
	for sum, n := range sent {
		if n != 0 {
			t.Errorf("content %x: %d more were sent than arrived", sum[:4], n)
		}
	}
}

func goSMTPWorker(w *world, id *identity, worker int, sent func([]byte)) error {
	dial := func() (*smtp.Client, error) { return smtp.Dial(w.addr) }
	if worker%2 == 0 {
		dial = func() (*smtp.Client, error) { return smtp.DialStartTLS(w.addr, id.trust) }
	}
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.Close()
	r := rand.New(rand.NewPCG(uint64(worker), 9))
	for range 20 {
		content := randomContent(r)
		if err := c.Mail("a@client.test", &smtp.MailOptions{Size: int64(len(content)), Body: smtp.Body8BitMIME, EnvelopeID: "x y", Return: smtp.DSNReturnFull}); err != nil {
			return err
		}
		if err := c.Rcpt("b+tag@example.edu", &smtp.RcptOptions{Notify: []smtp.DSNNotify{smtp.DSNNotifySuccess}}); err != nil {
			return err
		}
		var refused *smtp.SMTPError
		if err := c.Rcpt("b@elsewhere.example", nil); !errors.As(err, &refused) || refused.Code != 550 || refused.EnhancedCode != (smtp.EnhancedCode{5, 7, 1}) {
			return fmt.Errorf("relaying: %w", err)
		}
		data, err := c.Data()
		if err != nil {
			return err
		}
		if _, err := data.Write(content); err != nil {
			return err
		}
		if err := data.Close(); err != nil {
			return err
		}
		sent(content)
	}
	return c.Quit()
}
