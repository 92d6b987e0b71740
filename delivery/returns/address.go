package returns

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/clrelay/clrelay/internal/mail"
)

const (
	prefix = "b+"
	macLen = 20 // characters of base32: 100 bits
	minKey = 16 // octets of a key
)

// Ref is the recipient of a message that a return path stands for.
type Ref struct {
	ID        mail.ID
	Recipient int // index into Envelope.Recipients
}

// Errors of Open.
var (
	ErrForeign = errors.New("returns: not a return path") // another address
	ErrForged  = errors.New("returns: a return path that was not made here")
)

// Keys make return paths and know their own.
type Keys struct {
	domain string
	keys   [][]byte // the first makes, all are known
}

// NewKeys reads keys, one a line: the first makes return paths, the others are
// known still. Empty lines do not count. domain is in
// lower-case A-labels.
func NewKeys(domain string, file []byte) (*Keys, error) {
	k := &Keys{domain: domain}
	for line := range bytes.Lines(file) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if len(line) < minKey {
			return nil, fmt.Errorf("key %d has %d characters: a key has %d or more, such as those of openssl rand -hex 32", len(k.keys)+1, len(line), minKey)
		}
		k.keys = append(k.keys, bytes.Clone(line))
	}
	if len(k.keys) == 0 {
		return nil, errors.New("there is no key: write a line of random characters, such as those of openssl rand -hex 32")
	}
	return k, nil
}

// Domain is that of the return paths.
func (k *Keys) Domain() string { return k.domain }

// Address gives the return path of a recipient: b+ID.INDEX.MAC, in lower case.
func (k *Keys) Address(r Ref) mail.Address {
	local := prefix + strings.ToLower(r.ID.String()) + "." + strconv.Itoa(r.Recipient) + "." + mac(k.keys[0], r)
	return mail.Address{Local: local, Domain: k.domain}
}

// Has tells whether an address is of the form of a return path here.
func (k *Keys) Has(a mail.Address) bool {
	return strings.EqualFold(a.Domain, k.domain) && len(a.Local) > len(prefix) && strings.EqualFold(a.Local[:len(prefix)], prefix)
}

// Open gives what a return path stands for. Some systems change the case of
// what they answer to. The error is ErrForeign or ErrForged.
func (k *Keys) Open(a mail.Address) (Ref, error) {
	if !k.Has(a) {
		return Ref{}, ErrForeign
	}
	parts := strings.Split(a.Local[len(prefix):], ".")
	if len(parts) != 3 || len(parts[1]) > 5 {
		return Ref{}, ErrForged
	}
	id, err := mail.ParseID(parts[0])
	n, err2 := strconv.ParseUint(parts[1], 10, 16)
	if err != nil || err2 != nil || strconv.FormatUint(n, 10) != parts[1] {
		return Ref{}, ErrForged
	}
	ref, said := Ref{id, int(n)}, []byte(strings.ToLower(parts[2]))
	for _, key := range k.keys {
		if hmac.Equal([]byte(mac(key, ref)), said) {
			return ref, nil
		}
	}
	return Ref{}, ErrForged
}

// mac is HMAC-SHA256, cut.
func mac(key []byte, r Ref) string {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte("return path\x00")) // a hash takes everything
	_, _ = h.Write(r.ID[:])
	_, _ = h.Write(binary.BigEndian.AppendUint32(nil, uint32(r.Recipient)))
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil)))[:macLen]
}
