// Package who tells who calls the admin API, and what he may do: by the kernel's
// word on the unix socket, by his certificate elsewhere, and by what the
// configuration says of his name.
package who

import (
	"context"
	"fmt"
	"os/user"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/internal/roles"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Caller is who calls.
type Caller struct {
	Operator bool
	Grant    roles.Grant // of an operator
	Node     string      // another node; empty when it is none
	Text     string      // for the log
}

// Masked says whether addresses are hidden from him.
func (c *Caller) Masked() bool { return c.Operator && c.Grant.Masked() }

// Person is who he is without what changes from one call to the next: what is
// kept and shown for long. Of a user of this machine it is the name.
func (c *Caller) Person() string {
	if c.Grant.Source != roles.SourceSocket {
		return c.Text
	}
	if u, err := user.LookupId(strings.TrimPrefix(c.Grant.Name, "uid=")); err == nil {
		return u.Username
	}
	return c.Grant.Name
}

// Role is for the logs; empty for who has none.
func (c *Caller) Role() string {
	if c.Grant.Content {
		return string(c.Grant.Role) + "+content"
	}
	return string(c.Grant.Role)
}

// Bindings give operators by their names other roles than stand in their
// certificates; nil: none.
type Bindings func() []roles.Binding

// Of tells who calls. Without a certificate of ours, or the kernel's word, it is
// nobody.
func (b Bindings) Of(ctx context.Context) Caller {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Caller{Text: "unknown"}
	}
	switch info := p.AuthInfo.(type) {
	case PeerInfo:
		g := roles.Grant{Name: fmt.Sprintf("uid=%d", info.UID), Role: roles.Admin, Content: true, Source: roles.SourceSocket}
		return Caller{Operator: true, Grant: g, Text: info.String()}
	case credentials.TLSInfo:
		if len(info.State.VerifiedChains) == 0 {
			break
		}
		who, err := pki.PeerOf(info.State)
		switch {
		case err != nil:
		case who.Kind == pki.Admin:
			g := roles.Grant{Name: who.Name, Role: who.Role, Content: who.Content, Source: roles.SourceCertificate, Expires: info.State.PeerCertificates[0].NotAfter}
			if g.Role == "" {
				g.Role = roles.Admin // made before there were roles
			}
			if b != nil {
				g = roles.Bind(g, b())
			}
			return Caller{Operator: true, Grant: g, Text: who.String()}
		case who.Kind == pki.Node:
			return Caller{Node: who.Name, Text: who.String()}
		}
	}
	return Caller{Text: "unknown"}
}

// Service tells the caller who he is, and whom the configuration binds.
type Service struct {
	adminv1.UnimplementedAccessServiceServer
	Bindings Bindings
}

// Whoami is of the API.
func (s *Service) Whoami(ctx context.Context, _ *adminv1.WhoamiRequest) (*adminv1.WhoamiResponse, error) {
	c := s.Bindings.Of(ctx)
	out := &adminv1.WhoamiResponse{
		Name: c.Grant.Name, Role: string(c.Grant.Role), Content: c.Grant.Content, Source: c.Grant.Source, Masked: c.Masked(),
	}
	if !c.Grant.Expires.IsZero() {
		out.Expires = timestamppb.New(c.Grant.Expires)
	}
	return out, nil
}

// List is of the API.
func (s *Service) List(context.Context, *adminv1.AccessServiceListRequest) (*adminv1.AccessServiceListResponse, error) {
	out := &adminv1.AccessServiceListResponse{}
	if s.Bindings == nil {
		return out, nil
	}
	for _, b := range s.Bindings() {
		out.Bindings = append(out.Bindings, &adminv1.AccessBinding{Name: strings.ToValidUTF8(b.Name, "\uFFFD"), Role: string(b.Role), Content: b.Content})
	}
	return out, nil
}
