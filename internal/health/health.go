// Package health tells load balancers and orchestrators how this node does:
// over HTTP at /livez, /readyz, /lb and /metrics, and in the language of
// HAProxy's agent-check.
//
// It decides nothing. A function that cmd wires tells the State, and this
// package only translates it: livez is about the process, readyz about taking
// mail here and now, lb about whether a load balancer should send new
// connections. A condition that the whole cluster shares must not take every
// node out of the balancer, for then clients are cut off without a word; so
// where no node is ready, lb stays 200 and clients hear the 451 or 452.
//
// The State function is called from the goroutines of both servers at once
// and must not block. Handlers never fail: what cannot be written to a client
// that is gone is lost.
package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// State is how the node does now.
type State struct {
	Node string
	// Broken says that the process cannot go on, such as after a failed
	// fdatasync; empty while it works.
	Broken string
	// NotReady says why the node would not take mail now; empty when it would.
	NotReady string
	// Draining says that the node is to take no new connections.
	Draining bool
	// OthersReady says that another node of the cluster would take mail. It
	// is false on a single machine.
	OthersReady bool
	// Sessions are the SMTP sessions that are open, MaxSessions how many there
	// may be.
	Sessions, MaxSessions int
}

// ready tells whether the node takes mail, and if not, why.
func (s *State) ready() (bool, string) {
	switch {
	case s.Broken != "":
		return false, s.Broken
	case s.Draining:
		return false, "draining"
	case s.NotReady != "":
		return false, s.NotReady
	}
	return true, ""
}

// answer is the body: one line of JSON with these keys.
type answer struct {
	Status string `json:"status"` // ok, ready, draining, not_ready or broken
	Reason string `json:"reason"` // empty when there is nothing to say
	Node   string `json:"node"`
}

func live(s *State) (int, answer) {
	if s.Broken != "" {
		return http.StatusServiceUnavailable, answer{"broken", s.Broken, s.Node}
	}
	return http.StatusOK, answer{"ok", "", s.Node}
}

func readiness(s *State) (int, answer) {
	ok, reason := s.ready()
	switch {
	case ok:
		return http.StatusOK, answer{"ready", "", s.Node}
	case s.Draining && s.Broken == "":
		return http.StatusServiceUnavailable, answer{"draining", reason, s.Node}
	}
	return http.StatusServiceUnavailable, answer{"not_ready", reason, s.Node}
}

func balancer(s *State) (int, answer) {
	code, a := readiness(s)
	switch {
	case code == http.StatusOK:
	case a.Status == "draining":
		code = http.StatusNotFound // HAProxy's disable-on-404: no new connections, keep the others
	case s.Broken == "" && !s.OthersReady:
		code = http.StatusOK
		a.Reason = "no node is ready, so that clients hear why: " + a.Reason
	}
	return code, a
}

// Options are what the HTTP server needs.
type Options struct {
	State   func() State
	Metrics http.Handler // serves /metrics
}

// Server is the HTTP server.
type Server struct{ http http.Server }

// NewServer makes a server that answers once Serve runs.
func NewServer(o Options) *Server {
	mux := http.NewServeMux()
	for path, translate := range map[string]func(*State) (int, answer){"/livez": live, "/readyz": readiness, "/lb": balancer} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			s := o.State()
			code, a := translate(&s)
			reply(w, code, a)
		})
	}
	if o.Metrics != nil {
		mux.Handle("GET /metrics", o.Metrics)
	}
	return &Server{http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}}
}

func reply(w http.ResponseWriter, code int, a answer) {
	body, err := json.Marshal(a)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // the client is gone when it fails
}

// Serve answers on l until Shutdown, and then returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("health: %w", err)
	}
	return nil
}

// Shutdown ends Serve. Requests that run are cut off when ctx is done.
func (s *Server) Shutdown(ctx context.Context) {
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close() // nothing is lost: answers are a line
	}
}
