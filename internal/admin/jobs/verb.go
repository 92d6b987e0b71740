package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Name gives the word for a verb: "hold"; empty where it says none.
func Name(v *adminv1.Verb) string {
	if f := field(v); f != nil {
		return string(f.Name())
	}
	return ""
}

func field(v *adminv1.Verb) protoreflect.FieldDescriptor {
	m := v.ProtoReflect()
	if !m.IsValid() {
		return nil
	}
	return m.WhichOneof(m.Descriptor().Oneofs().ByName("kind"))
}

// errVerb says that a verb is none, or of a newer program.
var errVerb = status.Error(codes.InvalidArgument, "no verb is given that this version of clrelay knows")

// changeRequest is the request of every verb.
type changeRequest interface {
	proto.Message
	GetChange() *adminv1.Change
}

// request gives a copy of what a verb asks of the queue.
func request(v *adminv1.Verb) (changeRequest, error) {
	f := field(v)
	if f == nil {
		return nil, errVerb
	}
	req, ok := v.ProtoReflect().Get(f).Message().Interface().(changeRequest)
	if !ok || req.GetChange().GetSelector() == nil {
		return nil, status.Error(codes.InvalidArgument, "a selector is needed; everything stands for the whole queue")
	}
	return proto.Clone(req).(changeRequest), nil
}

// bounded is a verb that passes over what arrived after a time, by the clocks
// of the nodes that took it.
func bounded(v *adminv1.Verb, at time.Time) *adminv1.Verb {
	v = proto.CloneOf(v)
	req, ok := v.ProtoReflect().Get(field(v)).Message().Interface().(changeRequest)
	if !ok {
		return v
	}
	sel := req.GetChange().GetSelector()
	if before := sel.GetArrivedBefore(); before == nil || before.AsTime().After(at) {
		sel.ArrivedBefore = timestamppb.New(at)
	}
	sel.Everything = false // all that arrived before
	return v
}

// call has the queue carry a verb out.
func call(ctx context.Context, queue adminv1.QueueServiceServer, v *adminv1.Verb, set func(*adminv1.Change)) (*adminv1.ChangeResult, error) {
	req, err := request(v)
	if err != nil {
		return nil, err
	}
	set(req.GetChange())
	word := Name(v)
	name := strings.ToUpper(word[:1]) + word[1:]
	for _, m := range adminv1.QueueService_ServiceDesc.Methods {
		if m.MethodName != name {
			continue
		}
		res, err := m.Handler(queue, ctx, func(in any) error {
			to, ok := in.(proto.Message)
			if !ok {
				return errors.New("jobs: a request that is no message")
			}
			proto.Merge(to, req)
			return nil
		}, nil)
		if err != nil {
			return nil, err
		}
		if r, ok := res.(interface{ GetResult() *adminv1.ChangeResult }); ok {
			return r.GetResult(), nil
		}
	}
	return nil, fmt.Errorf("jobs: the queue has no verb %q", word)
}
