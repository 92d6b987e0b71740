package serve

import (
	"context"
	"time"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/health"
	"github.com/clrelay/clrelay/internal/metrics"
	"github.com/clrelay/clrelay/spool"
)

// notReady says why no mail would be taken now, "" when it would.
func (r *relay) notReady() string {
	if e := r.broken.Load(); e != nil {
		return "failed: " + (*e).Error()
	}
	switch r.state.Load() {
	case starting:
		return "starting"
	case draining:
		return "draining"
	}
	if r.drained.Load() {
		return "draining"
	}
	if reply := r.parts.ready(); reply != nil {
		return reply.Line()
	}
	return ""
}

// health is what the health endpoints translate.
func (r *relay) health() health.State {
	st := health.State{
		Node:        string(r.conf().node.Name),
		NotReady:    r.notReady(),
		Draining:    r.state.Load() == draining || r.drained.Load(),
		OthersReady: r.parts.othersReady(),
		MaxSessions: r.conf().cluster.Receive.MaxConnections,
	}
	if e := r.broken.Load(); e != nil {
		st.Broken = (*e).Error()
	}
	st.Sessions = r.sessions()
	return st
}

// sessions counts the SMTP sessions that are open.
func (r *relay) sessions() int {
	if r.state.Load() == starting {
		return 0 // the server may not be there yet
	}
	if s := r.parts.smtp; s != nil {
		return s.Sessions()
	}
	return 0
}

// Status answers the admin API.
func (r *relay) Status(context.Context) admin.Status {
	reason, v := r.notReady(), r.versions.Load()
	return admin.Status{
		Node: string(r.conf().node.Name), Version: r.o.Version, Started: r.started,
		Ready: reason == "", Draining: r.state.Load() == draining || r.drained.Load(), Reason: reason,
		SMTP: r.parts.addresses(), ConfigVersion: v.inForce, ConfigRejected: v.rejected, ConfigError: v.why,
	}
}

// sources are the figures that are asked for at each scrape.
func (r *relay) sources(q *queue.Runner, sp *spool.Spool) metrics.Sources {
	return metrics.Sources{
		QueueRecipients: func() (active, deferred, held int64) {
			c := q.Counts()
			return int64(c.Active), int64(c.Deferred), int64(c.Held)
		},
		QueueMessages: func() int64 { return int64(q.Counts().Messages) },
		QueueOldestSeconds: func() float64 {
			oldest := q.Counts().Oldest
			if oldest.IsZero() {
				return 0
			}
			return time.Since(oldest).Seconds()
		},
		Segments: func() []metrics.SegmentCount {
			if m := r.parts.member; m != nil {
				return memberSegments(m.Figures())
			}
			st := sp.Stats()
			return []metrics.SegmentCount{
				{Role: "owner", State: "open", N: int64(st.OpenSegments)},
				{Role: "owner", State: "sealed", N: int64(st.Segments - st.OpenSegments)},
			}
		},
		SegmentsMoved:   r.segmentsMoved,
		UnderReplicated: r.underReplicated,
		LostSegments:    r.lostSegments,
		CertificateEnds: r.certificateEnds,
		LedgerImbalance: func() int64 { return imbalance(q, sp) },
		SpoolBytes:      func() int64 { return sp.Stats().FileBytes },
		SpoolFree:       func() uint64 { return sp.Stats().Free },
		SpoolSize:       func() uint64 { return sp.Stats().Size },
		Sessions:        r.sessions,
		MaillogLost:     r.maillog.Lost,
		TracesLost:      r.tracesLost,
		TraceBytes:      r.parts.traces.Log.Size,
		Suppressed:      r.parts.suppress.Len,
		Ready:           func() bool { return r.notReady() == "" },
		Version:         r.o.Version,
	}
}

// imbalance holds the spool's books against the queue's: what was recovered,
// accepted and taken over, less what was finished and handed over, is what the queue must know. The two
// are not read at one instant, so a difference counts when it stays.
func imbalance(q *queue.Runner, sp *spool.Spool) int64 {
	var diff int64
	for range 20 {
		c := sp.Stats().Counts
		diff = int64(c.Recovered+c.Accepted+c.TakenOver) - int64(c.Finished+c.HandedOver) - int64(inQueue(q.Counts()))
		if diff == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return diff
}

// inQueue counts the messages that the queue knows, those of which an operator
// dropped all that is left too.
func inQueue(c queue.Counts) int { return c.Messages + c.Trash }

// memberSegments counts the segments of a node of a cluster.
func memberSegments(f cluster.Figures) []metrics.SegmentCount {
	return []metrics.SegmentCount{
		{Role: "owner", State: "open", N: int64(f.Open)},
		{Role: "owner", State: "recovering", N: int64(f.Recovering)},
		{Role: "owner", State: "sealed", N: int64(f.Owned - f.Open - f.Recovering)},
		{Role: "member", State: "any", N: int64(f.Member)},
	}
}

// underReplicated counts the segments of this node's with too few copies. On a
// single machine one copy is all that was asked for.
func (r *relay) underReplicated() int64 {
	if r.parts.member == nil {
		return 0
	}
	return int64(r.parts.member.Figures().UnderReplicated)
}

// lostSegments counts the cluster's segments that no disk is left of.
func (r *relay) lostSegments() int64 {
	if r.parts.member == nil {
		return 0
	}
	return int64(len(r.parts.member.Lost()))
}

// certificateEnds tells when the node's certificate and its authority end.
func (r *relay) certificateEnds() (node, authority time.Time) {
	if r.parts.identity == nil {
		return node, authority
	}
	e := r.parts.identity.Expiry()
	return e.Cert, e.CA
}

// segmentsMoved counts the segments that this node gave to one with less mail.
func (r *relay) segmentsMoved() uint64 {
	if r.parts.member == nil {
		return 0
	}
	return r.parts.member.Figures().Moved
}

// othersReady tells whether another node of the cluster would take mail.
func (p *parts) othersReady() bool { return p.member != nil && p.member.OthersReady() }
