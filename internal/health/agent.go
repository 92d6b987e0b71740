package health

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// agentWait bounds the write of an agent line.
const agentWait = 2 * time.Second

// percentStep is the grain of the weight that the agent tells. A change
// smaller than a whole step is kept back, so that the weight does not flap.
const percentStep = 10

// Agent answers HAProxy's agent-check: to each connection one line, then the
// end. The line always carries operational state, administrative state,
// weight and maxconn, for HAProxy keeps the last value of each that it heard.
// It never says down, fail, stopped or maint: those cut sessions, or stop the
// health checks.
type Agent struct {
	state func() State

	mu      sync.Mutex
	percent int // told last
	l       net.Listener
	closed  bool
}

// NewAgent makes an agent that answers once Serve runs.
func NewAgent(state func() State) *Agent { return &Agent{state: state, percent: 100} }

// Line is what the agent says now, without the line end.
func (a *Agent) Line() string {
	s := a.state()
	admin, percent := "ready", a.weight(&s)
	if code, _ := balancer(&s); code != 200 {
		admin, percent = "drain", 0
	}
	if s.MaxSessions <= 0 {
		return fmt.Sprintf("up %s %d%%", admin, percent)
	}
	return fmt.Sprintf("up %s %d%% maxconn:%d", admin, percent, s.MaxSessions)
}

// weight is the share of sessions that are free, in whole steps.
func (a *Agent) weight(s *State) int {
	free := 100
	if s.MaxSessions > 0 {
		free = 100 * max(0, s.MaxSessions-s.Sessions) / s.MaxSessions
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if d := free - a.percent; d >= percentStep || d <= -percentStep || free == 100 {
		a.percent = max(percentStep, free/percentStep*percentStep) // never 0: that would be a drain
	}
	return a.percent
}

// Serve answers on l until Close, and then returns nil.
func (a *Agent) Serve(l net.Listener) error {
	a.mu.Lock()
	a.l = l
	closed := a.closed
	a.mu.Unlock()
	if closed {
		return l.Close()
	}
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("health: agent: %w", err)
		}
		a.answer(conn)
	}
}

// answer writes the line. It fits into the socket's buffer, so nobody waits
// for the peer.
func (a *Agent) answer(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(agentWait)) // the write fails then as well
	_, _ = conn.Write([]byte(a.Line() + "\n"))      // HAProxy asks again
	_ = conn.Close()
}

// Close ends Serve.
func (a *Agent) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	if a.l == nil {
		return nil
	}
	return a.l.Close()
}
