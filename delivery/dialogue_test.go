package delivery_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/delivery"
	"github.com/clrelay/clrelay/delivery/smtpc/smtpctest"
	"github.com/clrelay/clrelay/internal/dialogue"
)

// TestDialogueWithoutSecrets: who listens hears every step of a session, its
// end, and a later message on the kept connection, but neither password nor
// content.
func TestDialogueWithoutSecrets(t *testing.T) {
	conf, roots := certificate(t, "127.0.0.1")
	for _, mech := range []string{"PLAIN", "LOGIN"} {
		t.Run(mech, func(t *testing.T) {
			s := &smtpctest.Server{TLS: conf, Ehlo: []string{"AUTH " + mech}, Say: login(mech, &[]string{"secret"})}
			hop, _ := authHop(t, listen(t, s), "secret")
			tap := &dialogue.Tap{}
			w, ok := tap.Follow(dialogue.Filter{Dest: "127.0.0.1"})
			if !ok {
				t.Fatal("nobody may follow")
			}
			defer w.Close()
			a := delivery.New(delivery.Options{Hostname: "relay.test", RootCAs: roots, Tap: tap})
			for range 2 {
				if got := codes(a.Deliver(t.Context(), hop, message(hello, "a"))); got != "250" {
					t.Fatalf("outcome %s", got)
				}
			}
			a.Close()
			var words []string
			for end := false; !end; {
				l := <-w.C
				words, end = append(words, []string{"-- ", "C: ", "S: "}[l.Who]+l.Text), l.End
			}
			all := strings.Join(words, "\n")
			b64 := base64.StdEncoding.EncodeToString
			for _, secret := range []string{"secret", b64([]byte("secret")), b64([]byte("\x00usér\x00secret")), b64([]byte("usér")), "Hello"} {
				if strings.Contains(all, secret) {
					t.Errorf("it has %q", secret)
				}
			}
			for _, want := range []string{"-- connected", "S: 220 ", "C: EHLO relay.test", "C: STARTTLS", "-- TLS: TLSv1.3", "C: AUTH " + mech, "S: 235 [", "C: MAIL FROM:<", "C: RCPT TO:<", "[content of ", "S: 250 ", "-- closed: "} {
				if !strings.Contains(all, want) {
					t.Errorf("it lacks %q", want)
				}
			}
			if n := strings.Count(all, "C: MAIL FROM:"); n != 2 {
				t.Errorf("%d messages", n)
			}
			if t.Failed() {
				t.Log(all)
			}
		})
	}
}
