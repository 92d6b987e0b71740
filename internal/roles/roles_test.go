package roles

import (
	"fmt"
	"strings"
	"testing"
)

// The whole table: a kind of access that is added stands in it, or is nobody's.
func TestWhoMayWhat(t *testing.T) {
	names := []string{"denied", "anyone", "looks", "traces", "content", "operates", "administers", "exports", "audits"}
	want := map[Role]string{
		None: "", "": "", "root": "",
		Viewer:   "anyone looks",
		Support:  "anyone looks traces",
		Operator: "anyone looks traces operates",
		Admin:    "anyone looks traces operates administers exports audits",
		Auditor:  "anyone audits",
	}
	for role, list := range want {
		for _, content := range []bool{false, true} {
			var got []string
			g := Grant{Role: role, Content: content}
			for a := range Access(40) {
				if !g.May(a) {
					continue
				}
				name := fmt.Sprint("access ", a)
				if int(a) < len(names) {
					name = names[a]
				}
				if name == "content" {
					if !content || role != Support && role != Operator && role != Admin {
						t.Errorf("%s with content %v may read messages", role, content)
					}
					continue
				}
				got = append(got, name)
			}
			if strings.Join(got, " ") != list {
				t.Errorf("%s may %v, want %s", role, got, list)
			}
		}
		if g := (Grant{Role: role}); g.Masked() != (role == Viewer || !Known(string(role))) {
			t.Errorf("%s sees addresses: %v", role, !g.Masked())
		}
	}
}

func TestBindingsWin(t *testing.T) {
	cert := Grant{Name: "jane", Role: Admin, Content: true, Source: SourceCertificate}
	list := []Binding{{Name: "jane", Role: Support}, {Name: "joe", Role: None}}
	if g := Bind(cert, list); g.Role != Support || g.Content || g.Source != SourceCluster {
		t.Errorf("jane is %+v", g)
	}
	cert.Name = "joe"
	if g := Bind(cert, list); g.May(Anyone) || g.May(Looks) {
		t.Errorf("joe is locked out, and may: %+v", g)
	}
	cert.Name = "jim"
	if g := Bind(cert, list); g != cert {
		t.Errorf("jim is %+v", g)
	}
}
