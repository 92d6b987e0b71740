// Package later takes what clients say of when their mail is to be delivered:
// FUTURERELEASE (RFC 4865) and DELIVERBY (RFC 2852).
package later

import (
	"strconv"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// Offer is what a client may ask for. The zero value is nothing.
type Offer struct {
	Hold time.Duration // how long a message may be held; 0: not at all
	By   bool          // it may say by when
	// NotYet says that both would be taken if all nodes of the cluster knew
	// them: neither is announced then, and whoever asks is to come again.
	NotYet bool
}

// Announce appends the lines of a reply to EHLO, each with a line end before it.
func (o Offer) Announce(b []byte, now time.Time) []byte {
	if o.NotYet {
		return b
	}
	if o.Hold > 0 {
		b = append(b, "\nFUTURERELEASE "...)
		b = strconv.AppendInt(b, int64(o.Hold/time.Second), 10)
		b = append(b, ' ')
		b = now.Add(o.Hold).UTC().AppendFormat(b, time.RFC3339)
	}
	if o.By {
		b = append(b, "\nDELIVERBY"...)
	}
	return b
}

// Take puts a parameter of MAIL into the envelope. ok is false for one that is
// not on offer; else a reply refuses it.
func (o Offer) Take(env *mail.Envelope, key, value string, now time.Time) (r *mail.Reply, ok bool) {
	var err error
	switch key {
	case "HOLDFOR", "HOLDUNTIL":
		if o.Hold <= 0 {
			return nil, false
		}
		if !env.Hold.IsZero() {
			return bad("HOLDFOR and HOLDUNTIL exclude each other"), true
		}
		if key == "HOLDUNTIL" {
			env.Hold, err = mail.ParseHoldUntil(value)
		} else {
			var d time.Duration
			d, err = mail.ParseHoldFor(value)
			env.Hold = now.Add(d)
		}
	case "BY":
		if !o.By {
			return nil, false
		}
		env.By, err = mail.ParseBy(value, now)
	default:
		return nil, false
	}
	if err != nil {
		_, text, _ := strings.Cut(err.Error(), ": ") // behind what every such error begins with
		return bad(text), true
	}
	return o.check(env, now), true
}

// check looks at what there is so far.
func (o Offer) check(env *mail.Envelope, now time.Time) *mail.Reply {
	switch hold := env.Hold; {
	case o.NotYet:
		return mail.NewReply(451, "4.3.2", "Not all nodes of this relay can hold mail yet, please try again later")
	case hold.IsZero():
	case hold.Before(now):
		return bad("that time to hold it until is past")
	case hold.After(now.Add(o.Hold)):
		return bad("a message is held for " + strconv.FormatInt(int64(o.Hold/time.Second), 10) + " seconds at most")
	case !env.By.At.IsZero() && !env.By.At.After(hold):
		return bad("it would be held until after its BY")
	}
	return nil
}

func bad(text string) *mail.Reply { return mail.NewReply(501, "5.5.4", "Bad parameter: "+text) }
