package admin_test

import (
	"context"
	"crypto/tls"
	"errors"
	access "github.com/clrelay/clrelay/internal/admin/methods"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/audit"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/internal/roles"
	kept "github.com/clrelay/clrelay/proto/control"
)

// secret is the local part that nobody may see who is masked.
const secret = "jane.secret"

var dirty = []string{
	secret + "@example.org", `550 5.1.1 <` + secret + `@example.org>: unknown`, `"` + secret + `"@x.org and ` + secret + `+tag@y.org`,
	"postmaster: " + secret + "@example.org\n", "rfc822;" + secret + "+40x.org",
}

// filled gives a message of which every field is set, and every text holds an
// address.
func filled(d protoreflect.MessageDescriptor, depth int) *dynamicpb.Message {
	m := dynamicpb.NewMessage(d)
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		switch {
		case f.IsMap():
			v, k := m.Mutable(f).Map(), protoreflect.ValueOfString(dirty[0]).MapKey()
			if f.MapKey().Kind() != protoreflect.StringKind {
				k = scalar(f.MapKey(), 1).MapKey()
			}
			if f.MapValue().Message() == nil {
				v.Set(k, scalar(f.MapValue(), 0))
			} else if depth > 0 {
				v.Set(k, protoreflect.ValueOfMessage(filled(f.MapValue().Message(), depth-1)))
			}
		case f.IsList():
			for n := range dirty {
				switch list := m.Mutable(f).List(); {
				case f.Kind() == protoreflect.StringKind || f.Kind() == protoreflect.BytesKind:
					list.Append(scalar(f, n))
				case f.Message() == nil:
					list.Append(list.NewElement())
				case depth > 0:
					list.Append(protoreflect.ValueOfMessage(filled(f.Message(), depth-1)))
				}
			}
		case f.Message() == nil:
			m.Set(f, scalar(f, i))
		case depth > 0:
			m.Set(f, protoreflect.ValueOfMessage(filled(f.Message(), depth-1)))
		}
	}
	return m
}

func scalar(f protoreflect.FieldDescriptor, n int) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(dirty[n%len(dirty)])
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(dirty[n%len(dirty)]))
	}
	return f.Default()
}

// backend plays every method that there is: it answers with addresses, and
// remembers what was called.
type backend struct {
	mu     sync.Mutex
	called map[string]int
	noted  []kept.AuditEntry
	broken error // of the audit log
}

func (b *backend) AppendAudit(_ context.Context, e kept.AuditEntry) (kept.AuditMark, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken != nil {
		return kept.AuditMark{}, b.broken
	}
	b.noted = append(b.noted, e)
	return kept.AuditMark{Sequence: uint64(len(b.noted))}, nil
}

func (b *backend) reached(method string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.called[method]
}

func (b *backend) call(method string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.called[method]++
}

// describe finds a method.
func describe(t *testing.T, method string) protoreflect.MethodDescriptor {
	t.Helper()
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		t.Fatal(err)
	}
	return d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name))
}

// fake makes a service of the backend that has the methods of a real one.
func (b *backend) fake(t *testing.T, service string, info grpc.ServiceInfo) *grpc.ServiceDesc {
	desc := &grpc.ServiceDesc{ServiceName: service, HandlerType: (*any)(nil)}
	for _, m := range info.Methods {
		full := "/" + service + "/" + m.Name
		d := describe(t, full)
		if m.IsClientStream || m.IsServerStream {
			desc.Streams = append(desc.Streams, grpc.StreamDesc{StreamName: m.Name, ServerStreams: m.IsServerStream, ClientStreams: m.IsClientStream, Handler: func(_ any, ss grpc.ServerStream) error {
				in, err := protoregistry.GlobalTypes.FindMessageByName(d.Input().FullName()) // the gate asks it for its reason
				if err == nil {
					err = ss.RecvMsg(in.New().Interface())
				}
				if err != nil {
					return err
				}
				b.call(full)
				return ss.SendMsg(filled(d.Output(), 4))
			}})
			continue
		}
		desc.Methods = append(desc.Methods, grpc.MethodDesc{MethodName: m.Name, Handler: func(_ any, ctx context.Context, dec func(any) error, icept grpc.UnaryServerInterceptor) (any, error) {
			in := dynamicpb.NewMessage(d.Input())
			if err := dec(in); err != nil {
				return nil, err
			}
			return icept(ctx, in, &grpc.UnaryServerInfo{FullMethod: full}, func(context.Context, any) (any, error) {
				b.call(full)
				if in.GetUnknown() != nil {
					return nil, status.Error(codes.NotFound, "there is no "+dirty[0])
				}
				return filled(d.Output(), 4), nil
			})
		}})
	}
	return desc
}

// stage serves the backend with all methods of the server, behind its gate, and
// tells how to reach it with a certificate.
func stage(t *testing.T, b *backend, bindings []roles.Binding) (methods []string, dial func(pki.CertOptions) *grpc.ClientConn) {
	t.Helper()
	ca := t.TempDir()
	if _, err := pki.CreateCA(pki.CAOptions{Dir: ca}); err != nil {
		t.Fatal(err)
	}
	cert := func(o pki.CertOptions) *pki.Identity {
		o.Dir, o.CADir = t.TempDir(), ca
		if _, err := pki.Create(o); err != nil {
			t.Fatal(err)
		}
		id, err := pki.Open(pki.Options{Dir: o.Dir, Kind: o.Kind})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	q := &fakeQueue{}
	srv := admin.New(admin.Options{Queue: q, Messages: q, Node: q, Metrics: metrics.New().Node, Log: log, Name: "mx1",
		Bindings: func() []roles.Binding { return bindings },
		Recorder: &audit.Recorder{Keeper: b, Node: "mx1", Log: log, Now: time.Now}})
	list := grpc.NewServer()
	srv.Register(list)
	node := cert(pki.CertOptions{Kind: pki.Node, Name: "mx1"})
	gs := grpc.NewServer(grpc.Creds(credentials.NewTLS(node.Server("h2"))), grpc.UnaryInterceptor(srv.Unary()), grpc.StreamInterceptor(srv.Stream()))
	for service, info := range list.GetServiceInfo() {
		gs.RegisterService(b.fake(t, service, info), b)
		for _, m := range info.Methods {
			methods = append(methods, "/"+service+"/"+m.Name)
		}
	}
	slices.Sort(methods)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := serving(gs, l)
	t.Cleanup(func() {
		list.Stop()
		gs.Stop()
		srv.Shutdown(context.Background())
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return methods, func(o pki.CertOptions) *grpc.ClientConn {
		conf := cert(o).Client("mx1", "h2")
		conn, err := grpc.NewClient("passthrough:///mx1", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", l.Addr().String())
			}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() }) // nothing is under way
		return conn
	}
}

func serving(gs *grpc.Server, l net.Listener) <-chan error {
	served := make(chan error, 1)
	go func() { served <- gs.Serve(l) }()
	return served
}

// invoke calls a method with that request and gives what comes back.
func invoke(t *testing.T, conn *grpc.ClientConn, method string, req proto.Message) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err == nil {
		err = stream.SendMsg(req)
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = stream.CloseSend()
	}
	out := dynamicpb.NewMessage(describe(t, method).Output())
	if err == nil {
		err = stream.RecvMsg(out)
	}
	return prototext.Format(out), err
}

// Every method of the server, with every role, by certificate and by binding.
func TestEveryMethodWithEveryRole(t *testing.T) {
	b := &backend{called: map[string]int{}}
	methods, dial := stage(t, b, []roles.Binding{
		{Name: "bound", Role: roles.Viewer}, {Name: "out", Role: roles.None}, {Name: "strange", Role: "root"}, {Name: "raised", Role: roles.Support, Content: true},
	})
	if len(methods) < 25 {
		t.Fatalf("only %d methods: %v", len(methods), methods)
	}
	for _, c := range []struct {
		cert pki.CertOptions
		is   roles.Grant
	}{
		{pki.CertOptions{Name: "v", Role: roles.Viewer}, roles.Grant{Role: roles.Viewer}},
		{pki.CertOptions{Name: "s", Role: roles.Support}, roles.Grant{Role: roles.Support}},
		{pki.CertOptions{Name: "s2", Role: roles.Support, Content: true}, roles.Grant{Role: roles.Support, Content: true}},
		{pki.CertOptions{Name: "o", Role: roles.Operator}, roles.Grant{Role: roles.Operator}},
		{pki.CertOptions{Name: "a", Role: roles.Admin}, roles.Grant{Role: roles.Admin}},
		{pki.CertOptions{Name: "old"}, roles.Grant{Role: roles.Admin}},
		{pki.CertOptions{Name: "au", Role: roles.Auditor}, roles.Grant{Role: roles.Auditor}},
		{pki.CertOptions{Name: "bound", Role: roles.Admin, Content: true}, roles.Grant{Role: roles.Viewer}},
		{pki.CertOptions{Name: "raised", Role: roles.Viewer}, roles.Grant{Role: roles.Support, Content: true}},
		{pki.CertOptions{Name: "out", Role: roles.Admin}, roles.Grant{Role: roles.None}},
		{pki.CertOptions{Name: "strange", Role: roles.Admin}, roles.Grant{Role: "root"}},
	} {
		c.cert.Kind = pki.Admin
		conn := dial(c.cert)
		for _, method := range methods {
			access, before := access.AccessTo(method), b.reached(method)
			may := c.is.May(access)
			text, err := invoke(t, conn, method, reasoned(t, method))
			if got := b.reached(method) > before; got != may {
				t.Errorf("%s as %s: it ran: %v, %v", method, c.cert.Name, got, err)
			}
			if may && err != nil || !may && status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s as %s: %v", method, c.cert.Name, err)
			}
			if !may && text != "" {
				t.Errorf("%s as %s is denied and says %s", method, c.cert.Name, text)
			}
			if c.is.Masked() && strings.Contains(text, secret) {
				t.Errorf("%s as %s shows an address: %s", method, c.cert.Name, text)
			}
			if may && !c.is.Masked() && strings.Contains(prototext.Format(filled(describe(t, method).Output(), 4)), secret) && !strings.Contains(text, secret) {
				t.Errorf("%s as %s is masked: %s", method, c.cert.Name, text)
			}
		}
	}
	if node := dial(pki.CertOptions{Kind: pki.Node, Name: "mx2"}); node != nil {
		for _, method := range methods { // this server has no peers: another node is nobody
			if _, err := invoke(t, node, method, reasoned(t, method)); status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s as a node of no cluster: %v", method, err)
			}
		}
	}
}

// reasoned is an empty request with a reason, where it has one.
func reasoned(t *testing.T, method string) proto.Message {
	t.Helper()
	m := dynamicpb.NewMessage(describe(t, method).Input())
	if f := m.Descriptor().Fields().ByName("reason"); f != nil {
		m.Set(f, protoreflect.ValueOfString("because"))
	}
	return m
}

// Everything that changes something is written down before it is done, and how
// it ended; what cannot be is not done.
func TestChangesAreWrittenDown(t *testing.T) {
	b := &backend{called: map[string]int{}}
	methods, dial := stage(t, b, nil)
	conn := dial(pki.CertOptions{Kind: pki.Admin, Name: "jane", Role: roles.Admin, Content: true})
	for _, method := range methods {
		b.noted = nil
		if _, err := invoke(t, conn, method, reasoned(t, method)); err != nil {
			t.Errorf("%s: %v", method, err)
		}
		if !access.AccessTo(method).Audited() {
			if len(b.noted) > 0 {
				t.Errorf("%s is written down: %+v", method, b.noted)
			}
			continue
		}
		awaitNoted(t, b, 2)
		one, two := b.noted[0], b.noted[1]
		if one.Kind != kept.AuditRequest || one.Who != "admin jane" || one.Role != "admin+content" || one.Method != method || one.Node != "mx1" || one.Call == "" || one.AtMS == 0 {
			t.Errorf("%s: the request is %+v", method, one)
		}
		if two.Kind != kept.AuditOutcome || two.Of != 1 || two.Call != one.Call || two.Code != "OK" || two.Who != one.Who {
			t.Errorf("%s: the outcome is %+v", method, two)
		}
	}
	b.broken = errors.New("ledger: the disk is full")
	for _, method := range methods {
		before := b.reached(method)
		_, err := invoke(t, conn, method, reasoned(t, method))
		ran := b.reached(method) > before
		if audited := access.AccessTo(method).Audited(); ran == audited || audited && (status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "nothing was done: the disk is full")) {
			t.Errorf("%s without a log: it ran: %v, %v", method, ran, err)
		}
	}
	// Below the feature level everything goes on.
	b.broken = audit.ErrNotYet
	for _, method := range methods {
		if _, err := invoke(t, conn, method, reasoned(t, method)); err != nil {
			t.Errorf("%s in a rolling upgrade: %v", method, err)
		}
	}
}

// awaitNoted waits for the outcome of a stream, which is written when the client
// has gone.
func awaitNoted(t *testing.T, b *backend, n int) {
	t.Helper()
	limit := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		b.mu.Lock()
		have := len(b.noted)
		b.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%d entries, not %d", have, n)
		}
	}
}
