// Package sasl is the client side of the authentication mechanisms that the
// relay uses towards a smarthost: SCRAM-SHA-256 (RFC 7677), PLAIN (RFC 4616)
// and LOGIN.
//
// It has no network and knows no SMTP: package smtpc, the only caller, moves
// the messages, and sees to it that there is TLS. A Client is one exchange and
// belongs to one goroutine. A mechanism that is not satisfied with the server
// is an error of Next or Finish; the password is in none of them.
package sasl

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/xdg-go/scram"
)

// Iterations of SCRAM: RFC 7677 4 names the least; the most bounds the work
// that a server can put on us.
const (
	minIterations = 4096
	maxIterations = 1_000_000
)

// Errors of an exchange.
var (
	ErrMechanism  = errors.New("no authentication mechanism in common")
	ErrChallenge  = errors.New("challenge after the end of the exchange")
	ErrIterations = errors.New("iteration count out of bounds")
	ErrSignature  = errors.New("the server could not show that it knows the password")
)

// Client is the client's side of one exchange.
type Client struct {
	Mechanism string
	// Initial is the first message; it is sent with AUTH when HasInitial.
	Initial    string
	HasInitial bool

	answers []string // to the challenges, in order, whatever they say
	conv    *scram.ClientConversation
}

// New takes the best of the mechanisms offered.
func New(offered []string, user, password string) (*Client, error) {
	switch {
	case slices.Contains(offered, "SCRAM-SHA-256"):
		sc, err := scram.SHA256.NewClient(user, password, "")
		if err != nil {
			return nil, err
		}
		c := &Client{Mechanism: "SCRAM-SHA-256", HasInitial: true, conv: sc.WithMinIterations(minIterations).NewConversation()}
		c.Initial, err = c.conv.Step("")
		return c, err
	case slices.Contains(offered, "PLAIN"):
		return &Client{Mechanism: "PLAIN", HasInitial: true, Initial: "\x00" + user + "\x00" + password}, nil
	case slices.Contains(offered, "LOGIN"):
		// It has no standard, and what the two challenges say differs from
		// host to host; their order does not.
		return &Client{Mechanism: "LOGIN", answers: []string{user, password}}, nil
	}
	return nil, ErrMechanism
}

// Next answers a challenge.
func (c *Client) Next(challenge string) (string, error) {
	if c.conv != nil {
		if c.conv.Done() {
			return "", ErrChallenge
		}
		if err := checkIterations(challenge); err != nil {
			return "", err
		}
		return c.conv.Step(challenge)
	}
	if len(c.answers) == 0 {
		return "", ErrChallenge
	}
	a := c.answers[0]
	c.answers = c.answers[1:]
	return a, nil
}

// Finish is called when the server says that it is satisfied, with the last
// message that came with that, if any.
func (c *Client) Finish(last string) error {
	if c.conv == nil {
		return nil
	}
	if !c.conv.Done() {
		if _, err := c.conv.Step(last); err != nil {
			return ErrSignature
		}
	}
	if !c.conv.Valid() {
		return ErrSignature
	}
	return nil
}

// checkIterations looks for i= in a server's first message.
func checkIterations(msg string) error {
	for attr := range strings.SplitSeq(msg, ",") {
		if n, ok := strings.CutPrefix(attr, "i="); ok {
			if i, err := strconv.Atoi(n); err != nil || i > maxIterations {
				return ErrIterations
			}
		}
	}
	return nil
}
