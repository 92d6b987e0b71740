// Package enroll gives nodes their certificates without an operator's hand: a
// new machine gets its first one for a token, a node renews its own before it
// ends, and all get new ones while the authority is being replaced.
//
// What has to be agreed about are records: token/ID, of which a use is counted
// by compare-and-swap; cert/NODE, in which each node says which certificate and
// which authorities it has in use and whether it can sign; ca/change, how far
// the replacement of the authority is. A record holds no secret.
//
// A node signs if its tls_dir holds ca.key, and for itself and for others alike.
// An authority that is to be trusted is signed by one that is: what stands in
// the records alone makes nobody trust anything.
package enroll

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
)

const (
	tokenForm   = "R1"
	idOctets    = 5
	secretOcts  = 20
	maxTokenLen = 256
)

// ErrToken says that a text is no token.
var ErrToken = errors.New("no join token: it looks like R1.AUTHORITY.ID.SECRET, all in one word")

// Token lets a machine in, and lets it see that it is the right cluster.
type Token struct {
	CA     [sha256.Size]byte // SHA-256 of the authority's certificate
	ID     string
	Secret string
}

func encoding() *base32.Encoding {
	return base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
}

// NewToken makes a token for a cluster with that authority.
func NewToken(ca [sha256.Size]byte) Token {
	var b [idOctets + secretOcts]byte
	_, _ = rand.Read(b[:]) // never fails
	return Token{CA: ca, ID: encoding().EncodeToString(b[:idOctets]), Secret: encoding().EncodeToString(b[idOctets:])}
}

// Text is what is handed to the new machine.
func (t Token) Text() string {
	return strings.Join([]string{tokenForm, encoding().EncodeToString(t.CA[:]), t.ID, t.Secret}, ".")
}

// String hides the secret.
func (t Token) String() string { return "token " + t.ID }

// ParseToken reads a token. An error does not repeat what was read.
func ParseToken(text string) (Token, error) {
	if len(text) > maxTokenLen {
		return Token{}, fmt.Errorf("%w: it is too long", ErrToken)
	}
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 4 || parts[0] != tokenForm {
		return Token{}, ErrToken
	}
	for i, octets := range []int{sha256.Size, idOctets, secretOcts} {
		b, err := encoding().DecodeString(parts[i+1])
		if err != nil || len(b) != octets || encoding().EncodeToString(b) != parts[i+1] {
			return Token{}, fmt.Errorf("%w: its part %d is cut off or mistyped", ErrToken, i+2)
		}
	}
	t := Token{ID: parts[2], Secret: parts[3]}
	ca, _ := encoding().DecodeString(parts[1]) // was decoded above
	copy(t.CA[:], ca)
	return t, nil
}

// SplitJoin reads what --join is given: TOKEN@HOST:PORT.
func SplitJoin(text string) (Token, string, error) {
	token, addr, ok := strings.Cut(strings.TrimSpace(text), "@")
	t, err := ParseToken(token)
	if err != nil {
		return Token{}, "", err
	}
	if !ok || addr == "" {
		return Token{}, "", fmt.Errorf("%w: behind it comes @HOST:PORT, the cluster port of a node", ErrToken)
	}
	return t, addr, nil
}
