package enroll

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cluster/pki"
)

const standingSpace = "cert/"

// soon is how long before its end a certificate is spoken of that could not be
// renewed, or whose authority ends: where ca.key is kept off the nodes on
// purpose, that is early enough.
const soon = 30 * 24 * time.Hour

// Standing is what a node says of its certificate.
type Standing struct {
	Node    string    `json:"node"`
	Until   time.Time `json:"until"`  // end of its certificate
	Issuer  string    `json:"issuer"` // authority that signed it: SHA-256 of its certificate
	Ends    time.Time `json:"ends"`   // end of that authority
	Trusts  []string  `json:"trusts"` // authorities whose certificates it takes
	Signs   []string  `json:"signs"`  // authorities whose key it holds
	Problem string    `json:"problem"`
}

// Standings gives what the nodes last said, by name.
func Standings(r Records) []Standing {
	out := []Standing{}
	for _, rec := range r.Records(standingSpace) {
		var s Standing
		if json.Unmarshal(rec.Value, &s) == nil && s.Node == strings.TrimPrefix(rec.Key, standingSpace) {
			out = append(out, s)
		}
	}
	return out
}

// Notes says what an operator should know of the certificates of these nodes.
func Notes(list []Standing, members []string, now time.Time) (out []string) {
	for i := range list {
		s := &list[i]
		switch {
		case !slices.Contains(members, s.Node):
		case !now.Before(s.Until):
			out = append(out, fmt.Sprintf("the certificate of %s ended at %s: it makes no new connection", s.Node, day(s.Until)))
		case s.Until.Sub(now) >= soon:
		case s.Problem != "":
			out = append(out, fmt.Sprintf("the certificate of %s ends at %s: %s", s.Node, day(s.Until), s.Problem))
		case s.Ends.Equal(s.Until):
			out = append(out, fmt.Sprintf("the authority of %s ends at %s, and its certificate with it: clrelay cert rotate-ca", s.Node, day(s.Until)))
		}
	}
	return out
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// standing is what this node has to say.
func (k *Keeper) standing() Standing {
	st := k.Identity.Standing()
	s := Standing{
		Node: k.Self, Until: st.Cert.NotAfter, Issuer: st.Issuer.SHA256, Ends: st.Issuer.NotAfter, Trusts: []string{}, Signs: []string{}, Problem: k.problem,
	}
	for _, t := range st.Trusts {
		s.Trusts = append(s.Trusts, t.SHA256)
	}
	list, err := pki.Authorities(k.Dir, k.Now())
	for _, a := range list {
		s.Signs = append(s.Signs, a.Hash())
	}
	if err != nil && !errors.Is(err, pki.ErrNoAuthority) && s.Problem == "" {
		s.Problem = strings.TrimPrefix(err.Error(), "pki: ")
	}
	return s
}

// tell writes this node's record where it says something else.
func (k *Keeper) tell(ctx context.Context) error {
	value, err := json.Marshal(k.standing())
	if err != nil {
		return fmt.Errorf("enroll: %w", err)
	}
	version := uint64(0)
	for _, rec := range k.Records.Records(standingSpace + k.Self) {
		if rec.Key == standingSpace+k.Self {
			if slices.Equal(rec.Value, value) {
				return nil
			}
			version = rec.Version
		}
	}
	return k.Records.Put(ctx, standingSpace+k.Self, value, version)
}

// SignFor answers a node of the cluster that asks for a new certificate in the
// place of the one that it has shown. Name and hosts stay.
func (k *Keeper) SignFor(shown *x509.Certificate, der []byte) ([]byte, error) {
	who, err := pki.Describes(shown)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	req, err := pki.ParseRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	switch {
	case who.Kind != "node" || who.Name != req.Name:
		return nil, fmt.Errorf("%w: %s %s asks for a certificate of %s", ErrInvalid, who.Kind, who.Name, req.Name)
	case !slices.Equal(slices.Sorted(slices.Values(who.Hosts)), slices.Sorted(slices.Values(req.Hosts))):
		return nil, fmt.Errorf("%w: %s asks for other hosts than its certificate has", ErrInvalid, req.Name)
	}
	// The connection may be older than what is true of the certificate now.
	if err := k.Identity.Vouches(shown); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	want := k.wanted()
	ca, err := k.authority(want)
	if err != nil {
		return nil, err
	}
	k.Log.Info("a node gets a new certificate", "name", req.Name, "until_now", who.NotAfter)
	return ca.Sign(req, k.life(&who), k.Now())
}

// authority gives the one of a hash, if this node can sign with it.
func (k *Keeper) authority(hash string) (*pki.Authority, error) {
	list, err := pki.Authorities(k.Dir, k.Now())
	if err != nil && !errors.Is(err, pki.ErrNoAuthority) {
		return nil, err
	}
	for _, a := range list {
		if a.Hash() == hash {
			return a, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", k.Self, pki.ErrNoAuthority)
}

// life is how long a certificate in the place of another one is valid: as long
// as that was, unless its authority cut it short.
func (k *Keeper) life(was *pki.Info) time.Duration {
	if was.NotAfter.Equal(k.Identity.Standing().Issuer.NotAfter) {
		return pki.CertDays * 24 * time.Hour
	}
	return min(was.Life(), pki.CertDays*24*time.Hour)
}
