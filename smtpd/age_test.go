package smtpd_test

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/smtpd"
)

const movedOn = "421 4.3.2 "

// TestMessagesOfConnection: after so many transactions the next MAIL is told
// to connect anew; what was taken is kept, and QUIT is a QUIT still.
func TestMessagesOfConnection(t *testing.T) {
	w := start(t, setup{limits: smtpd.Limits{Messages: 3}})
	p := w.greeted()
	for _, end := range []string{"DATA", "BDAT", "RSET"} { // given up counts, too
		p.envelope()
		switch end {
		case "DATA":
			p.do("DATA", "354 ")
			p.do("Subject: x\r\n\r\n.", "250 2.0.0 ")
		case "BDAT":
			p.do("BDAT 14 LAST\r\nSubject: x\r\n", "250 2.0.0 ")
		case "RSET":
			p.do("RSET", "250 ")
		}
	}
	p.do("NOOP", "250 ")
	p.do("RCPT TO:<b@"+localDomain+">", "503 ")
	p.do("MAIL FROM:<a@client.test>", movedOn)
	p.closed()
	if n := len(w.inbox.messages()); n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
	q := w.greeted()
	for range 3 {
		q.do("MAIL FROM:<a@client.test>", "250 ")
		q.do("RSET", "250 ")
	}
	q.do("QUIT", "221 ")
	q.closed()
	other := w.greeted() // each connection counts for itself
	other.envelope()
}

// TestMessagesPipelined: a client that sends on without waiting loses nothing.
// What it sends behind the 421 is neither run nor answered.
func TestMessagesPipelined(t *testing.T) {
	w := start(t, setup{limits: smtpd.Limits{Messages: 2}})
	p := w.greeted()
	var all strings.Builder
	for i := range 4 {
		content := "Subject: " + strconv.Itoa(i) + "\r\n\r\nMAIL FROM:<in@body.test>\r\n"
		all.WriteString("MAIL FROM:<a@client.test>\r\nRCPT TO:<b@" + localDomain + ">\r\nBDAT " + strconv.Itoa(len(content)) + " LAST\r\n" + content)
	}
	p.send(all.String())
	for range 2 {
		p.expect("250 2.1.0 ")
		p.expect("250 2.1.5 ")
		p.expect("250 2.0.0 ")
	}
	p.expect(movedOn)
	p.closed()
	got := w.inbox.messages()
	if len(got) != 2 || !strings.HasPrefix(string(got[1].content()), "Subject: 1\r\n") {
		t.Errorf("%d messages came, want 2", len(got))
	}
}

// TestConnectionAge: an idle client hears of the end when the time has come,
// one in a transaction when that is over, and none of them before.
func TestConnectionAge(t *testing.T) {
	const age = 10 * time.Minute
	o := setup{limits: smtpd.Limits{Age: age, Commands: 5000, Command: time.Hour, Data: time.Hour, RateGrace: time.Hour}}
	lives := func(t *testing.T, begin time.Time, most time.Duration) {
		t.Helper()
		if d := time.Since(begin); d < age*4/5 || d > most {
			t.Errorf("it lived for %v", d)
		}
	}
	t.Run("idle", func(t *testing.T) {
		bubble(t, o, func(t *testing.T, w *world, dial func() *peer) {
			begin, p := time.Now(), dial()
			hello(p)
			p.expect(movedOn)
			lives(t, begin, age)
			p.closed()
		})
	})
	t.Run("at MAIL", func(t *testing.T) {
		bubble(t, o, func(t *testing.T, w *world, dial func() *peer) {
			begin, p := time.Now(), dial()
			hello(p)
			for time.Since(begin) < age*4/5-time.Second { // never idle for long, never told too early
				time.Sleep(time.Second)
				p.do("MAIL FROM:<a@client.test>", "250 ")
				p.do("RSET", "250 ")
			}
			p.send("MAIL FROM:<a@client.test>\r\n")
			for lines, _ := p.reply(); strings.HasPrefix(lines[0], "250"); lines, _ = p.reply() {
				time.Sleep(time.Second)
				p.do("RSET", "250 ")
				p.send("MAIL FROM:<a@client.test>\r\n")
			}
			lives(t, begin, age+time.Second)
		})
	})
	t.Run("in a transaction", func(t *testing.T) {
		bubble(t, o, func(t *testing.T, w *world, dial func() *peer) {
			begin, p := time.Now(), dial()
			hello(p)
			p.envelope()
			time.Sleep(age)
			synctest.Wait() // whatever the server does by itself, it has done
			p.do("RCPT TO:<c@"+localDomain+">", "250 ")
			p.do("DATA", "354 ")
			p.send("Subject: slow\r\n")
			time.Sleep(age)
			p.do("\r\n.", "250 2.0.0 ")
			after := time.Now()
			p.expect(movedOn) // nothing else came
			if d := time.Since(after); d < time.Second || d > 3*time.Second {
				t.Errorf("told after %v", d)
			}
			lives(t, begin, 2*age+3*time.Second)
			p.closed()
			if len(w.inbox.messages()) != 1 {
				t.Error("the message was lost")
			}
		})
	})
	t.Run("between chunks", func(t *testing.T) {
		bubble(t, o, func(t *testing.T, w *world, dial func() *peer) {
			p := dial()
			hello(p)
			p.envelope()
			p.send("BDAT 12\r\nSubject: x\r\n")
			p.expect("250 ")
			time.Sleep(age)
			p.do("BDAT 2 LAST\r\n", "250 2.0.0 ")
			p.do("MAIL FROM:<a@client.test>", movedOn)
		})
	})
	t.Run("QUIT in time", func(t *testing.T) {
		bubble(t, o, func(t *testing.T, w *world, dial func() *peer) {
			p := dial()
			hello(p)
			p.envelope()
			time.Sleep(age)
			p.do("RSET", "250 ")
			time.Sleep(time.Second)
			p.do("QUIT", "221 ")
		})
	})
}

// TestConnectionAgeSpread: clients that came together do not leave together.
func TestConnectionAgeSpread(t *testing.T) {
	const age, n = 100 * time.Minute, 50
	bubble(t, setup{limits: smtpd.Limits{Age: age, Command: 10 * age}}, func(t *testing.T, _ *world, dial func() *peer) {
		begin, ends := time.Now(), make(chan time.Duration, n)
		for range n {
			p := dial()
			hello(p)
			go func() {
				if _, err := p.reply(); err != nil {
					t.Error(err)
				}
				ends <- time.Since(begin)
			}()
		}
		seen := map[time.Duration]bool{}
		for range n {
			d := <-ends
			if d < age*4/5 || d > age {
				t.Errorf("one lived for %v", d)
			}
			seen[d/time.Minute] = true
		}
		if len(seen) < 5 {
			t.Errorf("they left in %d of 20 minutes", len(seen))
		}
	})
}

// TestNoAge: without bounds a connection lives on.
func TestNoAge(t *testing.T) {
	bubble(t, setup{limits: smtpd.Limits{Command: 48 * time.Hour}}, func(t *testing.T, _ *world, dial func() *peer) {
		p := dial()
		hello(p)
		for range 100 {
			p.do("MAIL FROM:<a@client.test>", "250 ")
			p.do("RSET", "250 ")
			time.Sleep(24 * time.Hour)
		}
		p.do("QUIT", "221 ")
	})
}
