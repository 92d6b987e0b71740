// Package enrol joins the certificates of a node with the rest of the relay: the
// records that they are agreed about in, the other nodes, the audit log; and
// gets a new machine its first one before the relay starts.
package enrol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"net"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/enroll"
	cluledger "github.com/clrelay/clrelay/cluster/ledger"
	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/audit"
	"github.com/clrelay/clrelay/internal/admin/certs"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
	"github.com/clrelay/clrelay/proto/control"
)

// signTime bounds the question to another node to sign.
const signTime = 10 * time.Second

// Options say for which node.
type Options struct {
	Name     string
	Dir      string // tls_dir
	Join     []string
	Member   *cluster.Node
	Conns    *cluster.Conns
	Identity *pki.Identity
	Recorder *audit.Recorder
	Log      *slog.Logger
	// Refusal makes errors of the cluster those of the admin API.
	Refusal func(err error, what string) error
}

// Enrol is the certificates of a node of a cluster.
type Enrol struct {
	Plane *certs.Plane
	door  *enroll.Door
	o     Options
}

// New makes it; nothing runs before Run.
func New(o Options) *Enrol {
	e := &Enrol{o: o}
	kept := &records{o.Member, o.Refusal}
	tokens := &enroll.Tokens{Records: kept, Now: time.Now}
	desk := &enroll.Desk{
		Tokens: tokens, Identity: o.Identity, Dir: o.Dir, Self: o.Name, Log: o.Log, Now: time.Now,
		Standings: func() []enroll.Standing { return enroll.Standings(kept) },
		Living:    e.living, Join: func() []string { return o.Join }, Begin: e.begin,
	}
	keeper := &enroll.Keeper{
		Identity: o.Identity, Dir: o.Dir, Self: o.Name, Records: kept, Log: o.Log, Now: time.Now, Ask: e.ask, Members: e.members,
	}
	e.Plane = &certs.Plane{Tokens: tokens, Desk: desk, Keeper: keeper, Addresses: e.addresses}
	e.door = &enroll.Door{Desk: desk, Log: o.Log, Now: time.Now}
	return e
}

// Run keeps the certificate of this node and answers newcomers until ctx ends
// and the listener is closed.
func (e *Enrol) Run(ctx context.Context, l net.Listener) {
	var group sync.WaitGroup
	group.Go(func() { e.Plane.Keeper.Run(ctx) })
	e.door.Serve(ctx, l)
	group.Wait()
}

// Notes says what an operator should know of the certificates.
func (e *Enrol) Notes() []string {
	return enroll.Notes(enroll.Standings(e.Plane.Keeper.Records), e.members(), time.Now())
}

func (e *Enrol) living(name string) string {
	for _, m := range e.o.Member.Overview().Nodes {
		if m.Name == name && m.State != admin.NodeDead && m.State != admin.NodeLeft {
			return m.State
		}
	}
	return ""
}

func (e *Enrol) members() (out []string) {
	for _, m := range e.o.Member.Overview().Nodes {
		if m.State != admin.NodeLeft {
			out = append(out, m.Name)
		}
	}
	return out
}

func (e *Enrol) addresses(nodes []string) (out []string) {
	for _, m := range e.o.Member.Overview().Nodes {
		for _, n := range nodes {
			if m.Name == n {
				out = append(out, m.Address)
			}
		}
	}
	return out
}

func (e *Enrol) ask(ctx context.Context, node string, der []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, signTime)
	defer cancel()
	for _, c := range e.o.Conns.Others(true) {
		if c.Node != node {
			continue
		}
		res, err := adminv1.NewCertServiceClient(c).Sign(ctx, &adminv1.CertServiceSignRequest{Request: der})
		if err != nil {
			return nil, errors.New(status.Convert(err).Message())
		}
		return res.GetCert(), nil
	}
	return nil, errors.New("it is not there")
}

// begin writes into the audit log that a machine gets a certificate.
func (e *Enrol) begin(ctx context.Context, token enroll.Entry, req *pki.Request, remote string) (func(error), error) {
	open, err := e.o.Recorder.Begin(ctx, audit.Call{
		Method: "/admin.v1.JoinTokenService/Use", Who: "machine " + remote, Request: &adminv1.JoinToken{Id: token.ID, Node: req.Name, Author: token.Author},
	})
	if err != nil {
		return nil, errors.New(status.Convert(err).Message())
	}
	return func(err error) { open.End(ctx, err, nil) }, nil
}

// records are those of the cluster.
type records struct {
	*cluster.Node
	refusal func(err error, what string) error
}

// Put is of enroll.Records.
func (r *records) Put(ctx context.Context, key string, value []byte, ifVersion uint64) error {
	_, err := r.PutRecord(ctx, control.RecordPut{Key: key, Value: value, IfVersion: ifVersion, Delete: value == nil})
	var refused *cluster.RefusedError
	switch {
	case errors.As(err, &refused) && refused.Code == control.WrongVersion:
		return enroll.ErrConflict
	case errors.Is(err, cluledger.ErrLevel):
		return status.Error(codes.FailedPrecondition, fmt.Sprintf("nothing was changed: %v", err))
	}
	return r.refusal(err, "the cluster did not decide")
}

// Changed is of enroll.Records.
func (r *records) Changed() <-chan struct{} { return r.RecordsChanged() }
