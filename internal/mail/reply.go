package mail

import (
	"fmt"
	"strings"
)

// EnhancedCode is an enhanced status code (RFC 3463): class, subject, detail.
// The zero value means that there is none.
type EnhancedCode [3]int

// String gives "5.7.1", or "" for the zero value.
func (c EnhancedCode) String() string {
	if c == (EnhancedCode{}) {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", c[0], c[1], c[2])
}

// Reply is what one side of an SMTP conversation says to the other, and the
// one error type that crosses borders inside the program.
//
// Text is public: it reaches the client, or came from the next hop. It never
// tells how the relay is built or configured, with one exception: the refusal
// of a relay attempt names the setting senders. Cause is for the log alone.
type Reply struct {
	Code     int          // RFC 5321 4.2: three digits
	Enhanced EnhancedCode // RFC 2034; zero when there is none
	Text     string       // one or more lines, parted by "\n", without codes
	Cause    error        // why, for the log; may be nil
}

// NewReply builds a Reply without a cause. enhanced is "5.7.1" or "".
func NewReply(code int, enhanced, text string) *Reply {
	return &Reply{Code: code, Enhanced: ParseEnhancedCode(enhanced), Text: text}
}

// WithCause returns a copy that carries why the reply was given.
func (r Reply) WithCause(err error) *Reply {
	r.Cause = err
	return &r
}

// Error shows the reply as one line, with the cause behind it: it is meant
// for the log, not for the wire.
func (r *Reply) Error() string {
	s := r.Line()
	if r.Cause != nil {
		s += " (" + r.Cause.Error() + ")"
	}
	return s
}

// Line shows code, enhanced code and text as one line, without the cause.
func (r *Reply) Line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%03d", r.Code)
	if e := r.Enhanced.String(); e != "" {
		b.WriteString(" " + e)
	}
	if r.Text != "" {
		b.WriteString(" " + strings.ReplaceAll(r.Text, "\n", " "))
	}
	return b.String()
}

// Unwrap gives the cause.
func (r *Reply) Unwrap() error { return r.Cause }

// Positive tells whether the reply is 2xx or 3xx.
func (r *Reply) Positive() bool { return r.Code >= 200 && r.Code < 400 }

// Temporary tells whether a later try may succeed (RFC 5321 4.2.1: 4xx).
func (r *Reply) Temporary() bool { return r.Code >= 400 && r.Code < 500 }

// Permanent tells whether the same try will fail again (5xx).
func (r *Reply) Permanent() bool { return r.Code >= 500 && r.Code < 600 }

// ParseEnhancedCode reads "5.7.1". Anything that is not of the form
// class "." subject "." detail with class 2, 4 or 5 and one to three digits
// in the others (RFC 2034 section 4) gives the zero value.
func ParseEnhancedCode(s string) EnhancedCode {
	var c EnhancedCode
	parts := strings.Split(s, ".")
	if len(parts) != 3 || len(parts[0]) != 1 || !strings.Contains("245", parts[0]) {
		return EnhancedCode{}
	}
	for i, p := range parts {
		if len(p) == 0 || len(p) > 3 {
			return EnhancedCode{}
		}
		for _, d := range []byte(p) {
			if d < '0' || d > '9' {
				return EnhancedCode{}
			}
			c[i] = c[i]*10 + int(d-'0')
		}
	}
	return c
}
