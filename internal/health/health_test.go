package health_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/clrelay/clrelay/internal/health"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server for the state that *s holds at each request.
func serve(t *testing.T, s *health.State) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := health.NewServer(health.Options{
		State: func() health.State { return *s },
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if _, err := io.WriteString(w, "figures\n"); err != nil {
				t.Error(err)
			}
		}),
	})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		srv.Shutdown(t.Context())
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestEndpoints(t *testing.T) {
	var s health.State
	base := serve(t, &s)
	for _, c := range []struct {
		name              string
		state             health.State
		livez, readyz, lb int
		status            string // of readyz
	}{
		{"ready", health.State{}, 200, 200, 200, "ready"},
		{"draining", health.State{Draining: true}, 200, 503, 404, "draining"},
		{"draining and not ready", health.State{Draining: true, NotReady: "disk full"}, 200, 503, 404, "draining"},
		{"alone and not ready", health.State{NotReady: "disk full"}, 200, 503, 200, "not_ready"},
		{"not ready, others are", health.State{NotReady: "disk full", OthersReady: true}, 200, 503, 503, "not_ready"},
		{"broken", health.State{Broken: "fdatasync failed"}, 503, 503, 503, "not_ready"},
		{"broken while draining", health.State{Broken: "fdatasync failed", Draining: true}, 503, 503, 503, "not_ready"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s = c.state
			s.Node = "mx1"
			for path, want := range map[string]int{"/livez": c.livez, "/readyz": c.readyz, "/lb": c.lb} {
				code, body := get(t, base+path)
				if code != want {
					t.Errorf("%s: status %d, want %d", path, code, want)
				}
				var a map[string]string
				if err := json.Unmarshal([]byte(body), &a); err != nil || strings.Count(body, "\n") != 1 || a["node"] != "mx1" {
					t.Errorf("%s: body %q is no line of JSON (%v)", path, body, err)
				}
				if path == "/readyz" && a["status"] != c.status {
					t.Errorf("%s: status %q, want %q", path, a["status"], c.status)
				}
				if why := c.state.Broken + c.state.NotReady; path == "/readyz" && a["status"] == "not_ready" && !strings.Contains(a["reason"], why) {
					t.Errorf("%s: reason %q does not say %q", path, a["reason"], why)
				}
			}
		})
	}
}

func TestOtherRequests(t *testing.T) {
	base := serve(t, &health.State{})
	if code, body := get(t, base+"/metrics"); code != 200 || body != "figures\n" {
		t.Errorf("/metrics gives %d %q", code, body)
	}
	if code, _ := get(t, base+"/nothing"); code != 404 {
		t.Errorf("an unknown path gives %d", code)
	}
	res, err := http.Post(base+"/readyz", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST gives %d", res.StatusCode)
	}
	head, err := http.Head(base + "/lb")
	if err != nil {
		t.Fatal(err)
	}
	if err := head.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if head.StatusCode != 200 {
		t.Errorf("HEAD gives %d", head.StatusCode)
	}
}

func TestAgentLine(t *testing.T) {
	for _, c := range []struct {
		name  string
		state health.State
		want  string
	}{
		{"idle", health.State{MaxSessions: 500}, "up ready 100% maxconn:500"},
		{"no limit", health.State{Sessions: 9}, "up ready 100%"},
		{"half full", health.State{Sessions: 250, MaxSessions: 500}, "up ready 50% maxconn:500"},
		{"full is no drain", health.State{Sessions: 600, MaxSessions: 500}, "up ready 10% maxconn:500"},
		{"draining", health.State{Draining: true, MaxSessions: 500}, "up drain 0% maxconn:500"},
		{"alone and not ready", health.State{NotReady: "x", MaxSessions: 500}, "up ready 100% maxconn:500"},
		{"not ready, others are", health.State{NotReady: "x", OthersReady: true, MaxSessions: 500}, "up drain 0% maxconn:500"},
		{"broken", health.State{Broken: "x", MaxSessions: 500}, "up drain 0% maxconn:500"},
	} {
		a := health.NewAgent(func() health.State { return c.state })
		if got := a.Line(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestAgentWeightDoesNotFlap(t *testing.T) {
	s := health.State{MaxSessions: 100}
	a := health.NewAgent(func() health.State { return s })
	for _, c := range []struct {
		sessions int
		want     string
	}{{0, "100%"}, {5, "100%"}, {11, "80%"}, {19, "80%"}, {12, "80%"}, {31, "60%"}, {25, "70%"}, {22, "70%"}, {0, "100%"}} {
		s.Sessions = c.sessions
		if got := strings.Fields(a.Line())[2]; got != c.want {
			t.Errorf("with %d sessions the weight is %s, want %s", c.sessions, got, c.want)
		}
	}
}

func TestAgentAnswersAndEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := health.NewAgent(func() health.State { return health.State{MaxSessions: 10} })
	served := make(chan error, 1)
	go func() { served <- a.Serve(l) }()
	for range 3 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(bufio.NewReader(conn))
		if err != nil || string(all) != "up ready 100% maxconn:10\n" {
			t.Errorf("the agent says %q, %v", all, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
