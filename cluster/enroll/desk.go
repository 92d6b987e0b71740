package enroll

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cluster/pki"
)

// Desk decides who gets a certificate.
type Desk struct {
	Tokens   *Tokens
	Identity *pki.Identity
	Dir      string // tls_dir, where ca.key may be
	Self     string
	Log      *slog.Logger
	Now      func() time.Time
	// Standings are those of the nodes.
	Standings func() []Standing
	// Living tells how a node of that name seems to be; empty: it is not
	// there.
	Living func(name string) string
	// Join gives gossip addresses of nodes.
	Join func() []string
	// Begin writes into the audit log that a machine is to get a certificate.
	// The function it gives writes how that ended.
	Begin func(ctx context.Context, token Entry, req *pki.Request, remote string) (end func(error), err error)
}

// refusal is an error that is told the machine.
type refusal struct {
	code string
	err  error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(code, format string, args ...any) error {
	return &refusal{code, fmt.Errorf(format, args...)}
}

// enroll answers a machine. The error is for the log.
func (d *Desk) enroll(ctx context.Context, remote string, a ask) (answer, error) {
	cert, err := d.decide(ctx, remote, a)
	var no *refusal
	switch {
	case err == nil:
		return answer{Code: codeOK, Cert: cert, Join: d.Join()}, nil
	case errors.As(err, &no):
		return answer{Code: no.code, Text: no.Error()}, err
	case errors.Is(err, ErrDenied):
		return answer{Code: codeDenied, Text: ErrDenied.Error()}, err
	case errors.Is(err, ErrEnded):
		return answer{Code: codeDenied, Text: err.Error()}, err
	}
	return answer{Code: codeLater, Text: "the cluster could not decide: " + strings.TrimPrefix(err.Error(), "enroll: ")}, err
}

func (d *Desk) decide(ctx context.Context, remote string, a ask) ([]byte, error) {
	token, err := d.Tokens.Known(a.ID, a.Secret)
	if err != nil {
		return nil, err
	}
	req, err := pki.ParseRequest(a.Request)
	if err != nil {
		return nil, refuse(codeDenied, "the request is not in order: %w", err)
	}
	if err := token.allows(req, d.Now()); err != nil {
		return nil, err
	}
	ca, err := d.Signer()
	if err != nil {
		return nil, refuse(codeConflict, "%w", err)
	}
	if state := d.Living(req.Name); state != "" {
		return nil, refuse(codeConflict, "%s is a node of the cluster already, and it is %s: give this machine another name (node in node.yaml), or stop that one first", req.Name, state)
	}
	end, err := d.Begin(ctx, token, req, remote)
	if err != nil {
		return nil, err
	}
	cert, err := d.give(ctx, ca, req, a)
	end(err)
	if err == nil {
		d.Log.Info("a machine got a certificate for a token", "name", req.Name, "hosts", req.Hosts, "token", token.ID, "remote", remote)
	}
	return cert, err
}

func (d *Desk) give(ctx context.Context, ca *pki.Authority, req *pki.Request, a ask) ([]byte, error) {
	if err := d.Tokens.Spend(ctx, a.ID, a.Secret, req); err != nil {
		return nil, err
	}
	return ca.Sign(req, pki.CertDays*24*time.Hour, d.Now())
}

// Signer gives the authority that new machines get their certificates from, if
// this node can sign. The error says who could.
func (d *Desk) Signer() (*pki.Authority, error) {
	st := d.Identity.Standing()
	if len(st.Trusts) != 1 {
		return nil, d.between(&st)
	}
	list, err := pki.Authorities(d.Dir, d.Now())
	if err != nil && !errors.Is(err, pki.ErrNoAuthority) {
		return nil, fmt.Errorf("%s cannot sign: %s", d.Self, strings.TrimPrefix(err.Error(), "pki: "))
	}
	for _, a := range list {
		if a.Hash() == st.Issuer.SHA256 {
			return a, nil
		}
	}
	return nil, fmt.Errorf("%s holds no ca.key and cannot sign; %s", d.Self, whoCan(d.Standings(), st.Issuer.SHA256, d.Self))
}

// Signers gives the authority that tokens are for and the nodes that can sign
// with it. It is an error if there is none.
func (d *Desk) Signers() (ca [sha256.Size]byte, nodes []string, err error) {
	st := d.Identity.Standing()
	if len(st.Trusts) != 1 {
		return ca, nil, d.between(&st)
	}
	nodes = signers(d.Standings(), st.Issuer.SHA256)
	if len(nodes) == 0 {
		return ca, nil, RefusedError("no node can sign a certificate: put ca.key beside ca.crt in the tls_dir of one, readable for the relay alone, and reload it (docs/security.md says what that means)")
	}
	ca, err = pki.ParseHash(st.Issuer.SHA256)
	return ca, nodes, err
}

func (d *Desk) between(st *pki.Standing) error {
	return RefusedError(fmt.Sprintf("ca.crt of %s holds %d authorities: new machines join once the change of the authority is over", d.Self, len(st.Trusts)))
}

// signers are the nodes that hold the key of an authority.
func signers(list []Standing, ca string) (names []string) {
	for i := range list {
		for _, h := range list[i].Signs {
			if h == ca {
				names = append(names, list[i].Node)
			}
		}
	}
	return names
}

func whoCan(list []Standing, ca, self string) string {
	var names []string
	for _, n := range signers(list, ca) {
		if n != self {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return "nor does any other node"
	}
	return "ask " + strings.Join(names, " or ")
}
