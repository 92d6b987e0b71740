package methods

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/clrelay/clrelay/internal/roles"
	_ "github.com/clrelay/clrelay/proto/admin/v1"
)

// Every method that the API has stands in the table, whoever registers it, and
// those of limits and routes as they should.
func TestEveryMethod(t *testing.T) {
	n := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("admin.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				name := "/" + string(s.FullName()) + "/" + string(s.Methods().Get(j).Name())
				n++
				access := AccessTo(name)
				if access == roles.Denied {
					t.Errorf("%s is missing", name)
				}
				if open, local := OpenToNodes(name); open && strings.Contains(name, "LimitService") && (!local || access.Changes()) {
					t.Errorf("%s is open to other nodes for more than their own share", name)
				}
			}
		}
		return true
	})
	if n < 50 {
		t.Errorf("only %d methods were found", n)
	}
	for _, name := range []string{"LimitUsage", "ExplainLimits"} {
		if open, local := OpenToNodes("/admin.v1.LimitService/" + name); !open || !local {
			t.Errorf("%s: nodes ask each other for their own share", name)
		}
	}
	for _, name := range []string{"ListLockouts", "LiftLockouts"} { // each node's are its own
		if open, local := OpenToNodes("/admin.v1.LockoutService/" + name); !open || !local {
			t.Errorf("%s: nodes ask each other for their own share", name)
		}
	}
	for name, want := range map[string]roles.Access{"ListLockouts": roles.Looks, "LiftLockouts": roles.Operates} {
		if got := AccessTo("/admin.v1.LockoutService/" + name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	for name, changes := range map[string]bool{
		"LimitService/ListLimits": false, "LimitService/LimitUsage": false, "LimitService/ExplainLimits": false, "RouteService/ListRoutes": false,
		"LimitService/SetLimit": true, "LimitService/ClearLimit": true,
	} {
		if got := AccessTo("/admin.v1." + name).Changes(); got != changes {
			t.Errorf("%s: changes %v", name, got)
		}
	}
}
