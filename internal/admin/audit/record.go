// Package audit writes what operators have done into the audit log, before it
// is done and after, and answers the part of the admin API that shows that log.
package audit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
	"github.com/clrelay/clrelay/proto/control"
)

// appendWait is how long an entry may take: about twice what the election of a
// leader takes.
const appendWait = 10 * time.Second

// ErrNotYet says that the log is not kept yet: a node of the cluster runs a
// program that does not know it.
var ErrNotYet = errors.New("audit: not every node of the cluster keeps an audit log yet")

// Keeper keeps the log.
type Keeper interface {
	// AppendAudit returns once the entry is where it cannot be lost.
	AppendAudit(ctx context.Context, e control.AuditEntry) (control.AuditMark, error)
}

// Recorder writes into the log what is called on this node.
type Recorder struct {
	Keeper Keeper
	Node   string
	Log    *slog.Logger
	Now    func() time.Time
}

// Call is a call that changes something.
type Call struct {
	Method    string
	Who, Role string
	Request   any
}

// Open is a call that stands in the log and has not ended.
type Open struct {
	r     *Recorder
	entry control.AuditEntry
}

// Begin writes a call into the log. It must not be done with an error, which is
// one of gRPC's. Open is nil where there is no log yet.
func (r *Recorder) Begin(ctx context.Context, c Call) (*Open, error) {
	ctx, cancel := context.WithTimeout(ctx, appendWait)
	defer cancel()
	e := control.AuditEntry{
		Kind: control.AuditRequest, AtMS: r.Now().UnixMilli(), Call: strings.ToLower(rand.Text()[:16]), Node: r.Node,
		Who: c.Who, Role: c.Role, Method: c.Method, Action: Action(c.Method),
	}
	if m, ok := c.Request.(proto.Message); ok {
		e.Target, e.Reason = describe(m.ProtoReflect())
	}
	if v, ok := c.Request.(interface{ GetVerb() *adminv1.Verb }); ok && v.GetVerb() != nil { // a job stands for what it does
		m := v.GetVerb().ProtoReflect()
		if f := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind")); f != nil {
			e.Action = "queue " + string(f.Name())
			e.Target, e.Reason = describe(m.Get(f).Message())
		}
	}
	mark, err := r.Keeper.AppendAudit(ctx, e)
	switch {
	case errors.Is(err, ErrNotYet):
		r.Log.Warn("this change is not in the audit log: not every node of the cluster runs a version that keeps one", "method", c.Method, "peer", c.Who)
		return nil, nil
	case err != nil:
		r.Log.Error("a change was refused, for it cannot be written into the audit log", "method", c.Method, "peer", c.Who, "error", err)
		return nil, status.Errorf(codes.Unavailable, "the audit log cannot be written, and nothing was done: %s", said(err))
	}
	e.Of = mark.Sequence
	return &Open{r, e}, nil
}

// said is an error's text without the name of the package that it is from.
func said(err error) string {
	text := strings.ToValidUTF8(err.Error(), "\uFFFD")
	if head, rest, ok := strings.Cut(text, ": "); ok && strings.IndexFunc(head, func(r rune) bool { return !unicode.IsLower(r) }) < 0 {
		return rest
	}
	return text
}

// End writes how the call ended; a nil Open is left alone. That it cannot is
// logged: what was done is done.
func (o *Open) End(ctx context.Context, err error, answer any) {
	if o == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendWait)
	defer cancel()
	e := o.entry
	e.Kind, e.AtMS, e.Target, e.Reason = control.AuditOutcome, o.r.Now().UnixMilli(), "", ""
	s := status.Convert(err)
	e.Code, e.Text, e.Counts = s.Code().String(), s.Message(), counts(answer)
	if nodes := missing(answer); err == nil && len(nodes) > 0 {
		e.Text = "no answer from " + strings.Join(nodes, ", ")
	}
	if _, err := o.r.Keeper.AppendAudit(ctx, e); err != nil {
		o.r.Log.Error("how a change ended is not in the audit log", "method", e.Method, "peer", e.Who, "of", e.Of, "code", e.Code, "error", err)
	}
}

// missing are the nodes that an answer, or the result in it, says to lack.
func missing(answer any) []string {
	switch a := answer.(type) {
	case interface{ GetResult() *adminv1.ChangeResult }:
		return a.GetResult().GetMissingNodes()
	case interface{ GetMissingNodes() []string }:
		return a.GetMissingNodes()
	}
	return nil
}

// counts are the numbers in an answer, those of the result in it too.
func counts(answer any) (out []control.AuditCount) {
	m, ok := answer.(proto.Message)
	if !ok || m == nil || !m.ProtoReflect().IsValid() {
		return nil
	}
	r := m.ProtoReflect()
	if c, ok := answer.(interface{ GetResult() *adminv1.ChangeResult }); ok {
		r = c.GetResult().ProtoReflect()
	}
	r.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.IsList() || f.IsMap() {
			return true
		}
		switch f.Kind() {
		case protoreflect.Int64Kind, protoreflect.Int32Kind:
			out = append(out, control.AuditCount{Name: string(f.Name()), N: uint64(max(0, v.Int()))})
		case protoreflect.Uint64Kind, protoreflect.Uint32Kind:
			out = append(out, control.AuditCount{Name: string(f.Name()), N: v.Uint()})
		}
		return true
	})
	return out
}

// Action says what a method does: "queue drop" of /admin.v1.QueueService/Drop.
func Action(method string) string {
	service, verb, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if at := strings.LastIndexByte(service, '.'); at >= 0 {
		service = service[at+1:]
	}
	return words(strings.TrimSuffix(service, "Service")) + " " + words(verb)
}

// words makes "write off" of WriteOff.
func words(name string) string {
	var out []rune
	for i, r := range name {
		if i > 0 && unicode.IsUpper(r) {
			out = append(out, ' ')
		}
		out = append(out, unicode.ToLower(r))
	}
	return string(out)
}

// describe says in one line what a request is about, and why it is made. What
// is set is shown as name=value; a Change is shown as what is in it.
func describe(m protoreflect.Message) (target, reason string) {
	var parts []string
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Name() == "reason" && f.Kind() == protoreflect.StringKind && !f.IsList():
			reason = v.String()
		case f.Name() == "dry_run" || f.Name() == "local":
		case f.Name() == "change" && f.Kind() == protoreflect.MessageKind && !f.IsList():
			var inner string
			inner, reason = describe(v.Message())
			parts = append(parts, inner)
		default:
			parts = append(parts, fmt.Sprintf("%s=%s", f.Name(), shown(f, v)))
		}
		return true
	})
	return strings.Join(sorted(parts), " "), reason
}
