package replica

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
)

// The streams' service. Its messages are frames, not protobuf.
const (
	// ServiceName is the gRPC name of the service, for those who decide by
	// name who may call what: peers may, and nobody else.
	ServiceName = "clrelay.replica.v1.Replica"
	methodName  = "Stream"
)

// Sizes of gRPC's own buffers. The windows hold what may be in flight in
// frames, so that the link's window is what limits, not theirs; and being set
// they spare gRPC its guessing of the bandwidth by pings.
const (
	ioBuffer     = 128 << 10
	streamWindow = 8 << 20
	connWindow   = 16 << 20
)

// stream is what a link needs of a gRPC stream, of either side.
type stream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// wireFrame is the message of the streams: a frame in a pooled buffer. Sending
// gives the buffer away; receiving fills in a new one.
type wireFrame struct {
	buf  *[]byte
	pool *bufferPool
}

// codec passes frames through as they are and gives everything else to the
// protobuf codec, so that one gRPC server can have both. It is forced upon
// server and client instead of being registered, which would be a global.
type codec struct{ other encoding.CodecV2 }

func newCodec() codec { return codec{other: encoding.GetCodecV2(proto.Name)} }

// Name is the name of the other codec: a call's content type stays what it is.
func (codec) Name() string { return proto.Name }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*wireFrame)
	if !ok {
		return c.other.Marshal(v)
	}
	b := f.buf
	f.buf = nil
	return mem.BufferSlice{mem.NewBuffer(b, f.pool)}, nil
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*wireFrame)
	if !ok {
		return c.other.Unmarshal(data, v)
	}
	n := data.Len()
	if n > maxWire {
		return ErrBadFrame
	}
	f.buf = f.pool.Get(n)
	data.CopyTo(*f.buf)
	return nil
}

// ServerOptions returns what the gRPC server needs that carries the streams:
// the codec that passes frames through untouched (and hands everything else to
// the ordinary protobuf codec, so that other services can live beside it),
// window and buffer sizes, and keepalive for connections whose peer is gone.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.WriteBufferSize(ioBuffer),
		grpc.ReadBufferSize(ioBuffer),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	}
}

// Register adds the streams' service to a gRPC server, which must have been
// made with ServerOptions. Close the Replicator before the server is stopped
// gracefully: its streams do not end by themselves.
func (r *Replicator) Register(s grpc.ServiceRegistrar) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: ServiceName,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: methodName, ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, s grpc.ServerStream) error { return r.serve(s) },
		}},
	}, r)
}

// call opens a stream over a finished connection. Ending ctx ends the stream;
// hangUp ends the connection without waiting for its other end.
func call(ctx context.Context, conn net.Conn) (s grpc.ClientStream, hangUp func(), err error) {
	var used atomic.Bool
	once := func(context.Context, string) (net.Conn, error) {
		if used.Swap(true) {
			return nil, errors.New("replica: the connection is over") // gRPC would connect anew by itself
		}
		return conn, nil
	}
	cc, err := grpc.NewClient("passthrough:///replica",
		grpc.WithContextDialer(once),
		grpc.WithTransportCredentials(finished{}),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(newCodec())),
	)
	if err != nil {
		_ = conn.Close() // the first error is the one to tell
		return nil, nil, err
	}
	hangUp = func() {
		// TLS says goodbye when it is closed and may wait 5 s for room to say
		// it; with the transport gone first it cannot.
		if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
			_ = t.NetConn().Close()
		}
		_ = conn.Close() // nothing is lost with it: what was unacknowledged stays so
		_ = cc.Close()
	}
	desc := &grpc.StreamDesc{StreamName: methodName, ServerStreams: true, ClientStreams: true}
	s, err = cc.NewStream(ctx, desc, "/"+ServiceName+"/"+methodName)
	if err != nil {
		hangUp()
		return nil, nil, err
	}
	return s, hangUp, nil
}

// finished are the credentials of a connection that Options.Dial has already
// authenticated.
type finished struct{}

func (finished) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info := credentials.TLSInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	if t, ok := c.(*tls.Conn); ok {
		info.State = t.ConnectionState()
	}
	return c, info, nil
}

func (finished) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("replica: for clients only")
}

func (finished) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (f finished) Clone() credentials.TransportCredentials { return f }
func (finished) OverrideServerName(string) error           { return nil }
