package admin

import (
	"github.com/clrelay/clrelay/internal/admin/methods"
	"io"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/admin/who"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/internal/roles"
)

// Every method that is registered stands in the table, and what the table
// opens to those who may only look has no verb that changes something.
func TestEveryMethodHasAnAccess(t *testing.T) {
	m := metrics.New()
	s := New(Options{Metrics: m.Node, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	all := s.methods()
	if len(all) < 10 {
		t.Fatalf("only %d methods are registered: %v", len(all), all)
	}
	for _, method := range all {
		access := methods.AccessTo(method)
		if access == roles.Denied {
			t.Errorf("%s is missing in AccessTo", method)
		}
		name := method[strings.LastIndexByte(method, '/')+1:]
		switch name {
		case "Summary", "List", "Shape", "Reasons", "Show", "Status", "ListRules", "ListSuppressions", "ShowSuppressions", "Get", "History", "Nodes", "Backup", "Address", "Outcomes", "Examine", "Clock", "Stats", "Bundle", "Profile", "Check", "Watch", "ServerReflectionInfo", "Whoami", "Tail", "Verify", "Find", "Search", "Headers", "Body":
			if access.Changes() {
				t.Errorf("%s only looks, AccessTo says %d", method, access)
			}
		default:
			if !access.Changes() {
				t.Errorf("%s may change something, AccessTo says %d", method, access)
			}
		}
	}
}

func TestUnknownMethodIsDenied(t *testing.T) {
	m := metrics.New()
	g := &gate{log: slog.New(slog.NewTextHandler(io.Discard, nil)), metrics: m.Node}
	for _, method := range []string{"", "/admin.v1.QueueService/Purge", "/admin.v1.QueueService/drop", "/x/Summary"} {
		err := g.pass(&call{ctx: t.Context(), method: method, who: who.Caller{Operator: true, Grant: roles.Grant{Role: roles.Admin, Content: true}}}, func() error {
			t.Errorf("%q was called", method)
			return nil
		})
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%q ends with %v", method, err)
		}
	}
	if got := m.AdminRequests.With("denied").Value(); got != 4 {
		t.Errorf("%v denied calls were counted, want 4", got)
	}
}
