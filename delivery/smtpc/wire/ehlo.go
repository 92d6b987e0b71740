package wire

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// Extensions is what a host offered in its reply to EHLO or LHLO.
type Extensions struct {
	Pipelining, EightBitMIME, SMTPUTF8, DSN    bool
	Chunking, BinaryMIME, StartTLS, RequireTLS bool

	Size     bool
	MaxSize  int64    // 0: none told
	Auth     []string // mechanisms, upper case
	MaxRcpt  int      // LIMITS RCPTMAX (RFC 9422), 0: none told
	MaxMails int      // LIMITS MAILMAX, 0: none told

	DeliverBy bool  // RFC 2852
	MinBy     int64 // seconds that it wants at least where it is to give up, 0: none told
}

// ParseExtensions reads a reply to EHLO. Keywords are in any case (RFC 5321
// 4.1.1.1); what is not understood is not there.
func ParseExtensions(text []byte) Extensions {
	var e Extensions
	first := true
	for line := range bytes.Lines(text) {
		if first { // the host's name and greeting
			first = false
			continue
		}
		e.add(strings.Fields(strings.ToUpper(string(line))))
	}
	return e
}

func (e *Extensions) add(words []string) {
	if len(words) == 0 {
		return
	}
	switch words[0] {
	case "PIPELINING":
		e.Pipelining = true
	case "8BITMIME":
		e.EightBitMIME = true
	case "SMTPUTF8":
		e.SMTPUTF8 = true
	case "DSN":
		e.DSN = true
	case "CHUNKING":
		e.Chunking = true
	case "BINARYMIME":
		e.BinaryMIME = true
	case "STARTTLS":
		e.StartTLS = true
	case "REQUIRETLS":
		e.RequireTLS = true
	case "SIZE":
		e.Size = true
		if len(words) > 1 {
			if n, err := strconv.ParseInt(words[1], 10, 64); err == nil && n > 0 {
				e.MaxSize = n
			}
		}
	case "DELIVERBY":
		e.DeliverBy = true
		if len(words) > 1 {
			least, _, _ := strings.Cut(words[1], ",")
			if n, err := strconv.ParseUint(least, 10, 31); err == nil {
				e.MinBy = int64(n)
			}
		}
	case "AUTH":
		e.Auth = append(e.Auth, words[1:]...)
	case "LIMITS":
		for _, w := range words[1:] {
			e.limit(w)
		}
	default:
		// A form older than RFC 4954 that is still met.
		if mechs, ok := strings.CutPrefix(words[0], "AUTH="); ok {
			e.Auth = append(append(e.Auth, mechs), words[1:]...)
		}
	}
}

func (e *Extensions) limit(word string) {
	name, value, _ := strings.Cut(word, "=")
	n, err := strconv.Atoi(value)
	if err != nil || n <= 0 {
		return
	}
	switch name {
	case "RCPTMAX":
		e.MaxRcpt = n
	case "MAILMAX":
		e.MaxMails = n
	}
}

// Words lists what is offered as keywords, for humans.
func (e *Extensions) Words() []string {
	var out []string
	for _, w := range []struct {
		on   bool
		word string
	}{
		{e.Pipelining, "PIPELINING"}, {e.Size && e.MaxSize == 0, "SIZE"}, {e.MaxSize > 0, "SIZE " + strconv.FormatInt(e.MaxSize, 10)},
		{e.EightBitMIME, "8BITMIME"}, {e.SMTPUTF8, "SMTPUTF8"}, {e.DSN, "DSN"}, {e.Chunking, "CHUNKING"}, {e.BinaryMIME, "BINARYMIME"},
		{e.StartTLS, "STARTTLS"}, {e.RequireTLS, "REQUIRETLS"},
		{e.DeliverBy, "DELIVERBY"}, {len(e.Auth) > 0, "AUTH " + strings.Join(e.Auth, " ")},
	} {
		if w.on {
			out = append(out, w.word)
		}
	}
	return out
}

// TakesBy tells whether a host can be told by when a message is to be
// delivered. What is to be given up it takes with enough time alone.
func (e *Extensions) TakesBy(by *mail.By, now time.Time) bool {
	return e.DeliverBy && !by.At.IsZero() && (!by.Return || by.Left(now) >= max(e.MinBy, 1))
}
