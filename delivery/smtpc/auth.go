package smtpc

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/clrelay/clrelay/delivery/smtpc/sasl"
	"github.com/clrelay/clrelay/delivery/smtpc/wire"
	"github.com/clrelay/clrelay/internal/mail"
)

const (
	// maxInitial is how long a command with an initial response may get
	// (RFC 4954 4); longer ones wait for the host's 334.
	maxInitial = 500
	// maxChallenges is more than any mechanism here has.
	maxChallenges = 4
)

// auth logs in where the target has a user (RFC 4954). secure has seen to it
// that there is TLS; the password never leaves without.
func (c *Conn) auth() *Failure {
	if c.target.User == "" {
		return nil
	}
	if c.tls == "" {
		return failure(StageAuth, "4.7.4", "authentication needs TLS", ErrNoTLS)
	}
	password, err := sasl.ReadPassword(c.target.PasswordFile)
	if err != nil {
		return authFailure("no credentials for the next hop", err)
	}
	client, err := sasl.New(c.ext.Auth, c.target.User, password)
	if err != nil {
		return authFailure("no way to authenticate to the next hop", err)
	}
	c.secret = true
	rep, f := c.exchange(client)
	c.secret = false
	switch {
	case f != nil:
		return f
	case rep.Code == 235:
		if err := client.Finish(lastWord(rep.Text)); err != nil {
			return authFailure("the next hop is not what it says it is", err)
		}
		return nil
	case rep.Code == 421:
		return refusal(StageAuth, rep, ErrAuth)
	case !rep.Negative():
		return unexpected(StageAuth, rep)
	}
	// The relay's credentials are not the sender's fault: no bounce for them.
	r := rep.Mail()
	return &Failure{Stage: StageAuth, Reply: *mail.NewReply(454, "4.7.8",
		"the next hop refuses the relay's credentials: "+r.Line()).WithCause(ErrAuth)}
}

func authFailure(text string, err error) *Failure {
	return failure(StageAuth, "4.7.0", text, fmt.Errorf("%w: %w", ErrAuth, err))
}

// exchange moves the messages of a mechanism until the host decides.
func (c *Conn) exchange(client *sasl.Client) (*wire.Reply, *Failure) {
	line, initial := "AUTH "+client.Mechanism, encode(client.Initial)
	inline := client.HasInitial && len(line)+1+len(initial) <= maxInitial
	if inline {
		line += " " + initial
	}
	rep, f := c.cmd(StageAuth, line)
	for n := 0; f == nil && rep.Code == 334; n++ {
		if n == maxChallenges {
			return nil, authFailure("authentication does not end", sasl.ErrChallenge)
		}
		if n == 0 && client.HasInitial && !inline {
			rep, f = c.cmd(StageAuth, initial)
			continue
		}
		challenge, err := base64.StdEncoding.DecodeString(string(rep.Text))
		if err != nil && client.Mechanism != "LOGIN" {
			return nil, authFailure("unintelligible challenge", err)
		}
		answer, err := client.Next(string(challenge))
		if err != nil {
			return nil, authFailure("authentication failed", err)
		}
		rep, f = c.cmd(StageAuth, encode(answer))
	}
	return rep, f
}

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// lastWord is where a 235 may carry the last message of the mechanism.
func lastWord(text []byte) string {
	words := strings.Fields(string(text))
	if len(words) == 0 {
		return ""
	}
	b, err := base64.StdEncoding.DecodeString(words[len(words)-1])
	if err != nil {
		return ""
	}
	return string(b)
}
