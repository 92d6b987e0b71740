package admin_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// waiting gives the nodes of a world mail that waits: each has some for a
// domain of its own and some for one that all have.
func waiting(nodes []*member) {
	for n, m := range nodes {
		m.entries = m.entries[:0]
		for i := range 10 * (n + 1) {
			e := admin.Entry{ID: id(byte(n)), To: mail.Address{Local: "x", Domain: "all.example"}, State: mail.StateDeferred, Arrived: time.Now().Add(-time.Hour)}
			e.LastReply = *mail.NewReply(450, "4.7.1", fmt.Sprintf("<x%d@all.example>: greylisted at %s.example.org", i, m.name))
			if i == 0 {
				e.To.Domain, e.State, e.LastReply = m.name+".example", mail.StateActive, mail.Reply{}
			}
			m.entries = append(m.entries, e)
		}
	}
}

func TestShapeOfAllNodes(t *testing.T) {
	client, nodes := world(t)
	waiting(nodes)
	queue := adminv1.NewQueueServiceClient(client)
	res, err := queue.Shape(t.Context(), &adminv1.ShapeRequest{Limit: 2})
	if err != nil || res.GetMissingNodes() != nil || res.GetCut() {
		t.Fatalf("%v, %v", res, err)
	}
	if rows := res.GetRows(); res.GetTotal().GetTotal() != 60 || len(rows) != 2 || rows[0].GetName() != "all.example" || rows[0].GetTotal() != 57 ||
		rows[0].GetCounts()[4] != 57 || rows[1].GetName() != "mx1.example" || res.GetOther().GetTotal() != 2 {
		t.Errorf("the shape is %v", res)
	}
	res, err = queue.Shape(t.Context(), &adminv1.ShapeRequest{Selector: &adminv1.Selector{Domains: []string{"*.example"}, States: []adminv1.RecipientState{1}}})
	if err != nil || res.GetTotal().GetTotal() != 3 || len(res.GetRows()) != 3 {
		t.Errorf("of active ones: %v, %v", res, err)
	}
	_, err = queue.Shape(t.Context(), &adminv1.ShapeRequest{Selector: &adminv1.Selector{Froms: []string{""}}})
	wantCode(t, err, codes.InvalidArgument)

	nodes[0].peers[0] = dead(t, "mx2")
	res, err = queue.Shape(t.Context(), &adminv1.ShapeRequest{})
	if err != nil || !slices.Equal(res.GetMissingNodes(), []string{"mx2"}) || res.GetTotal().GetTotal() != 40 || len(res.GetRows()) != 3 {
		t.Errorf("without mx2: %v, %v", res, err)
	}
}

func TestReasonsOfAllNodes(t *testing.T) {
	client, nodes := world(t)
	waiting(nodes)
	queue := adminv1.NewQueueServiceClient(client)
	res, err := queue.Reasons(t.Context(), &adminv1.ReasonsRequest{})
	if err != nil || res.GetMissingNodes() != nil || res.GetRecipients() != 57 || len(res.GetReasons()) != 1 {
		t.Fatalf("%v, %v", res, err)
	}
	if r := res.GetReasons()[0]; r.GetClass() != "greylisted" || r.GetReason() != "4.7.1 <addr>: greylisted at <host>" || r.GetRecipients() != 57 || r.GetDomains() != 1 ||
		r.GetSample() != "450 4.7.1 <x1@all.example>: greylisted at mx1.example.org" || time.Since(r.GetOldest().AsTime()) < time.Hour {
		t.Errorf("the reason is %v", r)
	}
	for _, c := range []struct {
		sel     *adminv1.Selector
		domains int64 // without a reply
	}{{&adminv1.Selector{Everything: true}, 3}, {&adminv1.Selector{States: []adminv1.RecipientState{1}}, 3}, {&adminv1.Selector{Domains: []string{"mx3.example"}}, 0}} {
		res, err := queue.Reasons(t.Context(), &adminv1.ReasonsRequest{Selector: c.sel})
		i := slices.IndexFunc(res.GetReasons(), func(r *adminv1.Reason) bool { return r.GetClass() == "none" })
		if err != nil || (i >= 0) != (c.domains > 0) || i >= 0 && res.GetReasons()[i].GetDomains() != c.domains {
			t.Errorf("of %v: %v, %v", c.sel, res, err)
		}
	}

	nodes[0].peers[1] = dead(t, "mx3")
	res, err = queue.Reasons(t.Context(), &adminv1.ReasonsRequest{})
	if err != nil || !slices.Equal(res.GetMissingNodes(), []string{"mx3"}) || res.GetRecipients() != 28 {
		t.Errorf("without mx3: %v, %v", res, err)
	}
}

// A queue that fails, or panics, is an error, and the others are not waited for.
func TestShapeOfABrokenQueue(t *testing.T) {
	q := &fakeQueue{err: fmt.Errorf("%w: stopping", admin.ErrUnavailable)}
	conn, _ := start(t, q)
	queue := adminv1.NewQueueServiceClient(conn)
	_, err := queue.Shape(t.Context(), &adminv1.ShapeRequest{})
	wantCode(t, err, codes.Unavailable)
	q.panics = true
	_, err = queue.Reasons(t.Context(), &adminv1.ReasonsRequest{})
	wantCode(t, err, codes.Internal)
	q.panics, q.err = false, nil
	empty, err := queue.Shape(t.Context(), &adminv1.ShapeRequest{})
	if err != nil || len(empty.GetTotal().GetCounts()) != len(empty.GetBucketSeconds())+1 || !proto.Equal(empty.GetTotal(), empty.GetOther()) {
		t.Errorf("an empty queue: %v, %v", empty, err)
	}
}
