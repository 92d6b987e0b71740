// Package roles says what operators may do: which roles there are, which kinds
// of access, and which role has which. What is not allowed here is denied.
package roles

import (
	"slices"
	"strings"
	"time"
)

// Role is what an operator is trusted with.
type Role string

// The roles.
const (
	None     Role = "none"     // nothing: somebody who is locked out
	Viewer   Role = "viewer"   // looks, with addresses masked
	Support  Role = "support"  // looks, at traces too
	Operator Role = "operator" // changes the queue, drains and resumes nodes, runs jobs
	Admin    Role = "admin"    // everything
	Auditor  Role = "auditor"  // reads the audit log and nothing else
)

// All lists the roles that somebody can be given, those with fewer rights first;
// the auditor stands beside the others.
func All() []Role { return []Role{Viewer, Support, Operator, Admin, Auditor} }

// List names them in a sentence.
func List() string {
	var out []string
	for _, r := range All() {
		out = append(out, string(r))
	}
	return strings.Join(out, ", ")
}

// Known says whether a text is one of them.
func Known(text string) bool { return slices.Contains(All(), Role(text)) }

// Access is what a method does to the node or the cluster.
type Access uint8

// The kinds of access. A method without one cannot be called.
const (
	Denied      Access = iota
	Anyone             // tells the caller about himself
	Looks              // shows something, changes nothing
	Traces             // shows what became of messages, with all that was said
	Content            // shows what is written in messages: takes the grant, and a reason
	Operates           // changes what is queued, or takes a node out of service and back
	Administers        // changes the cluster: its nodes, its configuration, who may do what
	Exports            // shows what is the administrators' alone, changes nothing
	Audits             // reads the audit log
)

// Changes says whether it changes something.
func (a Access) Changes() bool { return a == Operates || a == Administers }

// Audited says whether it is written into the audit log before it is done.
func (a Access) Audited() bool { return a.Changes() || a == Content }

// Grant is what somebody may do, and who says so.
type Grant struct {
	Name    string
	Role    Role
	Content bool      // may read what is written in messages
	Source  string    // where the role comes from: SourceSocket, SourceCertificate or SourceCluster
	Expires time.Time // of the certificate; zero without one
}

// Where a role comes from.
const (
	SourceSocket      = "socket"      // the kernel says that it is root, or the relay's own user
	SourceCertificate = "certificate" // it stands there, or is admin because nothing does
	SourceCluster     = "cluster"     // the configuration binds the name to it
)

// May says whether the role, or the grant of content, allows an access.
func (g *Grant) May(a Access) bool {
	switch a {
	case Anyone:
		return Known(string(g.Role))
	case Looks:
		return g.is(Viewer, Support, Operator, Admin)
	case Traces:
		return g.is(Support, Operator, Admin)
	case Content:
		return g.Content && g.is(Support, Operator, Admin)
	case Operates:
		return g.is(Operator, Admin)
	case Administers, Exports:
		return g.is(Admin)
	case Audits:
		return g.is(Auditor, Admin)
	}
	return false
}

// Masked says whether addresses are hidden from this role.
func (g *Grant) Masked() bool { return !g.is(Support, Operator, Admin, Auditor) }

func (g *Grant) is(list ...Role) bool { return slices.Contains(list, g.Role) }

// Binding is what the configuration says of an operator by his name.
type Binding struct {
	Name    string
	Role    Role
	Content bool
}

// Bind gives the grant that the bindings make of what a certificate says: they
// win over it.
func Bind(g Grant, list []Binding) Grant {
	for _, b := range list {
		if b.Name == g.Name {
			g.Role, g.Content, g.Source = b.Role, b.Content, SourceCluster
		}
	}
	return g
}
