package keys_test

import (
	"testing"

	"github.com/clrelay/clrelay/delivery/queue/keys"
	"github.com/clrelay/clrelay/internal/mail"
)

// TestSender: what is one bulk sender has one number, and what people call their
// senders has one each.
func TestSender(t *testing.T) {
	number := func(local string) uint32 { return keys.Sender(mail.Address{Local: local, Domain: "Home.example"}) }
	for _, same := range [][2]string{
		{"Jane", "jane"},
		{"bounces+a=example.org", "bounces+b=example.net"},
		{"list-return-17-a=example.org", "list-return-18-b=example.net"},
		{"list-owner-a=example.org", "list-owner-b=example.net"},
		{"bounce-news-0001", "bounce-news-0002"},
	} {
		if number(same[0]) != number(same[1]) {
			t.Errorf("%s and %s are two", same[0], same[1])
		}
	}
	for _, other := range [][2]string{
		{"acme-news-weekly", "acme-news-alerts"},
		{"no-reply-billing", "no-reply"},
		{"a", "b"},
	} {
		if number(other[0]) == number(other[1]) {
			t.Errorf("%s and %s are one", other[0], other[1])
		}
	}
}
