package smtpd

import "time"

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

// withDefaults puts the defaults where nothing is set.
func (l Limits) withDefaults() Limits {
	orInt := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	orInt64 := func(v *int64, def int64) {
		if *v <= 0 {
			*v = def
		}
	}
	orTime := func(v *time.Duration, def time.Duration) {
		if *v <= 0 {
			*v = def
		}
	}
	orInt64(&l.Size, 50<<20)
	orInt(&l.Recipients, 1000)
	orInt(&l.Connections, 5000)
	orInt(&l.PerClient, 200)
	orInt(&l.Errors, 20)
	orInt(&l.Commands, 1000)
	orInt(&l.Hops, 50)
	orInt(&l.HeaderFields, 5000)
	orInt64(&l.HeaderSize, 1<<20)
	orInt64(&l.Envelopes, 256<<20)
	orInt64(&l.MinRate, 256)
	orTime(&l.RateGrace, time.Minute)
	orTime(&l.Command, 5*time.Minute)
	orTime(&l.Data, 3*time.Minute)
	orTime(&l.Write, time.Minute)
	orTime(&l.Handshake, 30*time.Second)
	orTime(&l.Proxy, 5*time.Second)
	orTime(&l.Discard, 5*time.Second)
	return l
}

// patience is how long the next octets of a content are waited for that has
// brought got octets and let us wait for waited so far.
func (l *Limits) patience(waited time.Duration, got int64) time.Duration {
	earned := time.Duration(min(got/l.MinRate, 1<<32)) * time.Second
	return min(l.Data, l.RateGrace+earned-waited)
}
