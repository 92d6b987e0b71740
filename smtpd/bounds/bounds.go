// Package bounds says how much one client, and all of them together, can take
// from the SMTP server.
package bounds

import (
	"math/rand/v2"
	"time"
)

// Limits bound what one client, and all of them together, can take from the
// relay. A field that is zero has its default.
type Limits struct {
	Size         int64 // octets of a message without our Received line; 50 MiB
	Recipients   int   // of one message; 1000
	Connections  int   // open at once; 5000
	PerClient    int   // open at once from one IPv4 address or one IPv6 /64; 200
	Errors       int   // protocol errors since the last accepted message; 20
	Commands     int   // commands since the last accepted message that brought no message forward; 1000
	Hops         int   // Received lines of a message that comes in; 50 (RFC 5321 6.3)
	HeaderFields int   // of a message; 5000
	HeaderSize   int64 // octets of a message's header; 1 MiB
	Envelopes    int64 // octets of memory for the recipients of all open transactions beyond 100 each; 256 MiB

	// Messages is after how many transactions, and Age at what age a connection
	// is ended between two of them, so that clients are spread over nodes anew;
	// zero: never. Up to a fifth of Age is taken off at random.
	Messages int
	Age      time.Duration

	// MinRate is how many octets a second a content must bring on the
	// average, after RateGrace; 256 and one minute. Only the time counts in
	// which we wait for the client.
	MinRate   int64
	RateGrace time.Duration

	// GreetDelay is how long a client has to keep silent before it is
	// greeted. Zero: it must not have spoken yet, and is greeted at once.
	GreetDelay time.Duration

	Command   time.Duration // for a whole command line; 5 min (RFC 5321 4.5.3.2.7)
	Data      time.Duration // without an octet within a content; 3 min
	Write     time.Duration // for a batch of replies; 1 min
	Handshake time.Duration // for TLS; 30 s
	Proxy     time.Duration // for the PROXY header; 5 s
	Discard   time.Duration // input is thrown away for so long before a connection is closed; 5 s
}

// WithDefaults puts the defaults where nothing is set.
func (l Limits) WithDefaults() Limits {
	orDefault(&l.Size, 50<<20)
	orDefault(&l.Recipients, 1000)
	orDefault(&l.Connections, 5000)
	orDefault(&l.PerClient, 200)
	orDefault(&l.Errors, 20)
	orDefault(&l.Commands, 1000)
	orDefault(&l.Hops, 50)
	orDefault(&l.HeaderFields, 5000)
	orDefault(&l.HeaderSize, 1<<20)
	orDefault(&l.Envelopes, 256<<20)
	orDefault(&l.MinRate, 256)
	orDefault(&l.RateGrace, time.Minute)
	orDefault(&l.Command, 5*time.Minute)
	orDefault(&l.Data, 3*time.Minute)
	orDefault(&l.Write, time.Minute)
	orDefault(&l.Handshake, 30*time.Second)
	orDefault(&l.Proxy, 5*time.Second)
	orDefault(&l.Discard, 5*time.Second)
	return l
}

func orDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Patience is how long the next octets of a content are waited for that has
// brought got octets and let us wait for waited so far.
func (l *Limits) Patience(waited time.Duration, got int64) time.Duration {
	earned := time.Duration(min(got/l.MinRate, 1<<32)) * time.Second
	return min(l.Data, l.RateGrace+earned-waited)
}

// ageJitter is the share of an age that is taken off at random at most: one
// in so many. Clients that came together do not leave together.
const ageJitter = 5

// Expiry gives when a connection that begins now is to end; the zero time
// means never.
func (l *Limits) Expiry(now time.Time) time.Time {
	if l.Age <= 0 {
		return time.Time{}
	}
	return now.Add(l.Age - rand.N(l.Age/ageJitter+1))
}
