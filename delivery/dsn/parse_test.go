package dsn_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/delivery/dsn"
)

func TestParseOurOwn(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "failed-many.eml"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := dsn.Parse(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if s.ReportingMTA != (dsn.Typed{Type: "dns", Value: "mx1.example.edu"}) || s.ArrivalDate != "Mon, 23 Nov 2026 09:00:00 +0000" || len(s.Recipients) != 3 {
		t.Fatalf("%+v", s)
	}
	want := dsn.RecipientStatus{
		Final: dsn.Typed{Type: "rfc822", Value: "bob@example.org"}, Action: "failed", Status: "5.1.1", RemoteMTA: dsn.Typed{Type: "dns", Value: "mx.example.org"},
		Diagnostic:  dsn.Typed{Type: "smtp", Value: "550 5.1.1 <bob@example.org>: Recipient address rejected: User unknown"},
		LastAttempt: "Mon, 23 Nov 2026 09:01:00 +0000", LogID: "069M0000000000000000000008",
	}
	if s.Recipients[0] != want {
		t.Errorf("got %+v, want %+v", s.Recipients[0], want)
	}
	if r := s.Recipients[1]; r.Status != "4.4.7" || r.Final.Value != `"carl c"@example.net` {
		t.Errorf("%+v", r)
	}
}

func TestParseStatus(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want []dsn.RecipientStatus
	}{
		"plain":                           {"Reporting-MTA: dns; x\r\n\r\nFinal-Recipient: rfc822; a@b\r\nAction: failed\r\nStatus: 5.0.0\r\n", []dsn.RecipientStatus{{Final: dsn.Typed{Type: "rfc822", Value: "a@b"}, Action: "failed", Status: "5.0.0"}}},
		"LF alone, no empty line between": {"Reporting-MTA: dns; x\nFinal-Recipient: rfc822; a@b\nACTION: Failed (x)\nstatus: 4.0.0 (unknown)", []dsn.RecipientStatus{{Final: dsn.Typed{Type: "rfc822", Value: "a@b"}, Action: "failed", Status: "4.0.0"}}},
		"no type":                         {"Final-Recipient: a@b; c\nDiagnostic-Code: no such user; really", []dsn.RecipientStatus{{Final: dsn.Typed{Value: "a@b; c"}, Diagnostic: dsn.Typed{Value: "no such user; really"}}}},
		"folded":                          {"Diagnostic-Code: smtp;\r\n 550\r\n\tno\r\nAction: failed", []dsn.RecipientStatus{{Diagnostic: dsn.Typed{Type: "smtp", Value: "550 no"}, Action: "failed"}}},
		"two":                             {"\n\nAction: failed\n\n\nAction: delayed\n\nX-Other: y\n", []dsn.RecipientStatus{{Action: "failed"}, {Action: "delayed"}}},
		"bad status":                      {"Action: failed\nStatus: 5.1\n\nAction: failed\nStatus: 5..1\n\nAction: failed\nStatus: abc", []dsn.RecipientStatus{{Action: "failed"}, {Action: "failed"}, {Action: "failed"}}},
		"stray text":                      {"this is no field\nAction: relayed\nneither is this\nStatus: 2.0.0\n", []dsn.RecipientStatus{{Action: "relayed", Status: "2.0.0"}}},
	} {
		s, err := dsn.ParseStatus(strings.NewReader(c.in))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(s.Recipients) != len(c.want) {
			t.Errorf("%s: %+v", name, s.Recipients)
			continue
		}
		for i := range c.want {
			if s.Recipients[i] != c.want[i] {
				t.Errorf("%s: got %+v, want %+v", name, s.Recipients[i], c.want[i])
			}
		}
	}
	for name, in := range map[string]string{
		"empty": "", "no recipient": "Reporting-MTA: dns; x\r\n", "endless line": "Action: " + strings.Repeat("x", 1<<17), "too many": strings.Repeat("Action: failed\n\n", 10001),
	} {
		if s, err := dsn.ParseStatus(strings.NewReader(in)); !errors.Is(err, dsn.ErrNotReport) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"", "no header", "Subject: x\r\n\r\nhello", "Content-Type: multipart/report\r\n\r\n", "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\nhello\r\n--a--\r\n",
		"Content-Type: multipart/report; boundary=a\r\n\r\n--a\r\nContent-Type: message/delivery-status\r\n\r\n\r\n--a--\r\n",
	} {
		if s, err := dsn.Parse(strings.NewReader(in)); !errors.Is(err, dsn.ErrNotReport) {
			t.Errorf("%q: %+v, %v", in, s, err)
		}
	}
}

// Reports as other systems write them. What a report names is looked for in
// its text; so the parser is held to what stands there.
func TestParseRealReports(t *testing.T) {
	dir := os.Getenv("CLRELAY_SUITES")
	if dir == "" {
		t.Skip("CLRELAY_SUITES names no folder of test suites")
	}
	read, whole := 0, 0
	for _, pattern := range []string{"dsn-sisimai/maildir/*/*.eml", "dsn-kumomta/crates/kumo-log-types/data/rfc3464/*.eml"} {
		files, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(pattern)))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no files, %v", pattern, err)
		}
		for _, name := range files {
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			s, err := dsn.Parse(strings.NewReader(string(raw)))
			if err != nil {
				if !errors.Is(err, dsn.ErrNotReport) {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			read++
			for _, r := range s.Recipients {
				for _, v := range []string{r.Final.Value, r.Original.Value, r.Status} {
					if !strings.Contains(string(raw), v) {
						t.Errorf("%s: %q is not in the report", name, v)
					}
				}
				if r.Action != "" && r.Status != "" && r.Final.Value != "" {
					whole++
				}
			}
		}
	}
	t.Logf("%d reports read, %d recipients with action, status and address", read, whole)
	if read < 178 || whole < 179 {
		t.Errorf("%d reports read, %d recipients with action, status and address", read, whole)
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.eml"))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(raw))
	}
	f.Add("Final-Recipient: rfc822; a@b\nAction: failed\n x\nStatus: 5.1.1 (x)\n\nAction: y")
	f.Fuzz(func(t *testing.T, in string) {
		for _, parse := range []func(string) (*dsn.Status, error){
			func(s string) (*dsn.Status, error) { return dsn.Parse(strings.NewReader(s)) },
			func(s string) (*dsn.Status, error) { return dsn.ParseStatus(strings.NewReader(s)) },
		} {
			s, err := parse(in)
			if err != nil {
				if s != nil || !errors.Is(err, dsn.ErrNotReport) {
					t.Errorf("%+v, %v", s, err)
				}
				continue
			}
			if len(s.Recipients) == 0 {
				t.Error("no recipient")
			}
			for _, r := range s.Recipients {
				if strings.ContainsAny(r.Final.Value+r.Action+r.Status+r.Diagnostic.Value, "\n") {
					t.Errorf("%+v", r)
				}
			}
		}
	})
}
