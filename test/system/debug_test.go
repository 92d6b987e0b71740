package system

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/relayproc"
)

// unpack reads a bundle.
func unpack(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out, r := map[string]string{}, tar.NewReader(zip)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimPrefix(h.Name, "clrelay-bundle/")] = string(text)
	}
}

// A bundle tells all about a node and nothing about its people.
func TestDebugBundle(t *testing.T) {
	r := startRelay(t, relayproc.Options{Cluster: `senders:
  - {name: local, networks: [127.0.0.0/8, 198.51.100.0/24]}
routes:
  - {match: {}, action: {smarthost: ["127.0.0.1:1"]}}
`})
	if out, code := operate(t, r, "test", "send", "--from", "somebody.private@a.test", "--to", "someone.else@b.test", "--wait"); code != 8 {
		t.Fatalf("code %d: %s", code, out)
	}
	eventually(t, 10*time.Second, "the log has it", func() bool {
		log, err := os.ReadFile(r.LogPath())
		return err == nil && strings.Contains(string(log), "deferred")
	})
	file := filepath.Join(t.TempDir(), "x.tar.gz")
	if out, code := operate(t, r, "debug", "bundle", "--out", file); code != 0 {
		t.Fatalf("code %d: %s", code, out)
	}
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, mode %v", err, st.Mode())
	}
	files := unpack(t, file)
	for name, want := range map[string]string{
		"version.txt": "go1.", "metrics.txt": "clrelay_messages_accepted_total 1", "goroutines.txt": "goroutine ", "log.txt": "takes mail",
		"mail.log": "deferred", "node.yaml": "data_dir", "cluster.yaml": "routes:", "doctor.json": `"check"`, "top.json": `"deferred"`, "heap.pprof": "",
		"limits.txt": "open files", "process.txt": "VmRSS",
	} {
		if text, ok := files["test/"+name]; !ok || !strings.Contains(text, want) {
			t.Errorf("%s holds no %q:\n%.400s", name, want, text)
		}
	}
	for name, text := range files {
		for _, private := range []string{"somebody.private", "someone.else", "198.51.100"} {
			if strings.Contains(text, private) {
				t.Errorf("%s tells of %s", name, private)
			}
		}
	}
	if log := files["test/mail.log"]; strings.Count(log, "@b.test") == 0 {
		t.Errorf("the domains are gone:\n%s", log)
	}
	if _, code := operate(t, r, "debug", "bundle", "--out", file); code != 6 {
		t.Errorf("a file that is there: code %d", code)
	}
	full := file + ".full"
	if _, code := operate(t, r, "debug", "bundle", "--out", full, "--full"); code != 0 || !strings.Contains(unpack(t, full)["test/mail.log"], "someone.else@b.test") {
		t.Errorf("--full: code %d", code)
	}
}

func TestDebugOfAClusterNamesWhoIsMissing(t *testing.T) {
	f := openFleet(t, 3)
	file := filepath.Join(t.TempDir(), "x.tar.gz")
	if _, talk, code := f.Admin("debug", "bundle", "--out", file); code != 0 {
		t.Fatalf("code %d: %s", code, talk)
	}
	files := unpack(t, file)
	for _, r := range f.Nodes {
		if !strings.Contains(files[nameOf(r)+"/cluster.json"], `"Quorum": true`) {
			t.Errorf("%s: %v", nameOf(r), slices.Collect(func(yield func(string) bool) {
				for name := range files {
					if !yield(name) {
						return
					}
				}
			}))
		}
	}
	lost := f.Nodes[1]
	lost.Kill()
	_, talk, code := f.Admin("debug", "bundle", "--out", file+".2")
	if code != 7 || !strings.Contains(talk, nameOf(lost)) {
		t.Errorf("code %d: %s", code, talk)
	}
	if err := lost.Start(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDebugLevelsAndProfiles(t *testing.T) {
	r := startRelay(t, relayproc.Options{})
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"debug", "log-level", "show"}, 0, "info\n"},
		{[]string{"debug", "log-level", "set", "debug", "--for", "1h"}, 0, "debug for 1h0m0s, then info\n"},
		{[]string{"queue", "summary"}, 0, "messages"}, // which is worth a line at debug alone
		{[]string{"debug", "log-level", "show", "-o", "jsonl"}, 0, `{"level":"debug","configured":"info","left_seconds":3`},
		{[]string{"debug", "log-level", "set", "loud"}, 2, ""},
		{[]string{"debug", "goroutines"}, 0, "goroutine "},
		{[]string{"debug", "profile", "heap"}, 0, "\x1f\x8b"},
		{[]string{"debug", "profile", "cpu", "--for", "1s"}, 0, "\x1f\x8b"},
		{[]string{"debug", "profile", "cpu", "--for", "1h"}, 2, ""},
		{[]string{"debug", "profile", "soul"}, 2, ""},
	} {
		out, code := operate(t, r, c.args...)
		if code != c.code || !strings.HasPrefix(out, c.want) {
			t.Errorf("%v: code %d, %.80q", c.args, code, out)
		}
	}
	log, err := os.ReadFile(r.LogPath())
	if err != nil || !strings.Contains(string(log), "level=DEBUG") {
		t.Errorf("nothing was logged at debug: %v", fmt.Sprint(err))
	}
}
