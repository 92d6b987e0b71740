package top

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

func span(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// look is what one look saw, and what top --once prints.
type look struct {
	Nodes         []node        `json:"nodes"`
	Total         node          `json:"total"`
	By            string        `json:"by"`
	WindowSeconds int64         `json:"window_seconds"`
	Rows          []row         `json:"rows"`
	Destinations  []destination `json:"destinations"`
	MissingNodes  []string      `json:"missing_nodes"`
}

type node struct {
	Node          string  `json:"node"`
	UptimeSeconds int64   `json:"uptime_seconds"`
	Ready         bool    `json:"ready"`
	Sessions      int64   `json:"sessions"`
	Running       int64   `json:"running"`
	Active        int64   `json:"active"`
	Deferred      int64   `json:"deferred"`
	Held          int64   `json:"held"`
	OldestSeconds int64   `json:"oldest_seconds"`
	Accepted      int64   `json:"accepted"`
	Rejected      int64   `json:"rejected"`
	Delivered     int64   `json:"delivered"`
	PutOff        int64   `json:"put_off"`
	Bounced       int64   `json:"bounced"`
	Uncounted     int64   `json:"uncounted"`
	InRate        float64 `json:"accepted_per_second"`
	OutRate       float64 `json:"delivered_per_second"`
	PutOffRate    float64 `json:"put_off_per_second"`
	BouncedRate   float64 `json:"bounced_per_second"`
}

type row struct {
	Name  string `json:"name"`
	Count int64  `json:"count"`
	Error int64  `json:"error"`
}

type destination struct {
	Name       string     `json:"name"`
	Node       string     `json:"node"`
	State      string     `json:"state"`
	Recipients int64      `json:"recipients"`
	Waiting    int64      `json:"waiting"`
	Running    int64      `json:"running"`
	Limit      int64      `json:"limit"`
	Reason     string     `json:"reason"`
	NextTry    *time.Time `json:"next_try"`
}

// sorting is the order of the nodes.
type sorting uint8

const (
	byName sorting = iota
	byIn
	byOut
	byQueue
	sortings
)

func (s sorting) String() string { return [sortings]string{"name", "in/s", "out/s", "queue"}[s] }

func newLook(r *adminv1.StatsResponse, last map[string]*adminv1.NodeStats, q *question, window time.Duration) *look {
	l := &look{
		Nodes: []node{}, By: viewName(q.by), WindowSeconds: int64(window.Seconds()), Rows: []row{},
		Destinations: []destination{}, MissingNodes: append([]string{}, r.GetMissingNodes()...), Total: node{Node: "total", Ready: true},
	}
	for _, n := range r.GetNodes() {
		one := nodeOut(n, last[n.GetNode()])
		l.Total.add(&one)
		l.Nodes = append(l.Nodes, one)
	}
	slices.SortStableFunc(l.Nodes, func(a, b node) int {
		switch q.sort {
		case byIn:
			return cmp.Compare(b.InRate, a.InRate)
		case byOut:
			return cmp.Compare(b.OutRate, a.OutRate)
		case byQueue:
			return cmp.Compare(b.Active+b.Deferred+b.Held, a.Active+a.Deferred+a.Held)
		}
		return strings.Compare(a.Node, b.Node)
	})
	for _, t := range r.GetRows() {
		l.Rows = append(l.Rows, row{t.GetName(), t.GetCount(), t.GetError()})
	}
	for _, d := range r.GetDestinations() {
		l.Destinations = append(l.Destinations, destination{
			d.GetName(), d.GetNode(), d.GetState(), d.GetRecipients(), d.GetWaiting(), d.GetRunning(), d.GetLimit(), d.GetReason(), cmdline.Stamp(d.GetNextTry()),
		})
	}
	return l
}

// nodeOut makes rates of what came since the last look. A node that was
// started anew since has none yet.
func nodeOut(n, last *adminv1.NodeStats) node {
	out := node{
		Node: n.GetNode(), UptimeSeconds: int64(n.GetUptime().AsDuration().Seconds()), Ready: n.GetReady(), Sessions: n.GetSessions(), Running: n.GetRunning(),
		Active: n.GetActive(), Deferred: n.GetDeferred(), Held: n.GetHeld(), OldestSeconds: int64(n.GetOldest().AsDuration().Seconds()),
		Accepted: n.GetAccepted(), Rejected: n.GetRejected(), Delivered: n.GetDelivered(), PutOff: n.GetPutOff(), Bounced: n.GetBounced(), Uncounted: n.GetUncounted(),
	}
	if last == nil || n.GetUptime().AsDuration() < last.GetUptime().AsDuration() {
		return out
	}
	took := (n.GetUptime().AsDuration() - last.GetUptime().AsDuration()).Seconds()
	rate := func(now, before int64) float64 {
		if took <= 0 {
			return 0
		}
		return math.Round(10*float64(now-before)/took) / 10
	}
	out.InRate, out.OutRate = rate(n.GetAccepted(), last.GetAccepted()), rate(n.GetDelivered(), last.GetDelivered())
	out.PutOffRate, out.BouncedRate = rate(n.GetPutOff(), last.GetPutOff()), rate(n.GetBounced(), last.GetBounced())
	return out
}

func (n *node) add(o *node) {
	n.Ready = n.Ready && o.Ready
	n.UptimeSeconds = max(n.UptimeSeconds, o.UptimeSeconds)
	n.OldestSeconds = max(n.OldestSeconds, o.OldestSeconds)
	for _, f := range []struct {
		to *int64
		by int64
	}{
		{&n.Sessions, o.Sessions}, {&n.Running, o.Running}, {&n.Active, o.Active}, {&n.Deferred, o.Deferred}, {&n.Held, o.Held},
		{&n.Accepted, o.Accepted}, {&n.Rejected, o.Rejected}, {&n.Delivered, o.Delivered}, {&n.PutOff, o.PutOff}, {&n.Bounced, o.Bounced}, {&n.Uncounted, o.Uncounted},
	} {
		*f.to += f.by
	}
	n.InRate, n.OutRate, n.PutOffRate, n.BouncedRate = tenth(n.InRate+o.InRate), tenth(n.OutRate+o.OutRate), tenth(n.PutOffRate+o.PutOffRate), tenth(n.BouncedRate+o.BouncedRate)
}

func tenth(f float64) float64 { return math.Round(10*f) / 10 }

// tables are the nodes, and what is asked about, as rows of cells.
func (l *look) tables(by adminv1.TopBy) [][][]string {
	nodes := [][]string{{"NODE", "STATE", "UP", "SESSIONS", "IN/s", "OUT/s", "PUT OFF/s", "BOUNCED/s", "ACTIVE", "DEFERRED", "HELD", "RUNNING", "OLDEST"}}
	add := func(n *node) {
		state, oldest := "ready", "-"
		if !n.Ready {
			state = "NOT READY"
		}
		if n.Active+n.Deferred+n.Held > 0 {
			oldest = cmdline.Span(time.Duration(n.OldestSeconds) * time.Second)
		}
		nodes = append(nodes, []string{
			n.Node, state, cmdline.Span(time.Duration(n.UptimeSeconds) * time.Second), cmdline.Count(n.Sessions),
			rateText(n.InRate), rateText(n.OutRate), rateText(n.PutOffRate), rateText(n.BouncedRate),
			cmdline.Count(n.Active), cmdline.Count(n.Deferred), cmdline.Count(n.Held), cmdline.Count(n.Running), oldest,
		})
	}
	for i := range l.Nodes {
		add(&l.Nodes[i])
	}
	if len(l.Nodes) > 1 {
		add(&l.Total)
	}
	return [][][]string{nodes, l.lower(by)}
}

func rateText(f float64) string { return fmt.Sprintf("%.1f", f) }

// lower is the table below the nodes.
func (l *look) lower(by adminv1.TopBy) [][]string {
	if by == adminv1.TopBy_TOP_BY_UNSPECIFIED {
		out := [][]string{{"RECIPIENTS", "DUE", "RUNNING", "STATE", "NODE", "DESTINATION", "WHY"}}
		for _, d := range l.Destinations {
			out = append(out, []string{
				cmdline.Count(d.Recipients), cmdline.Count(d.Waiting), fmt.Sprintf("%d/%d", d.Running, d.Limit), d.State, d.Node,
				cmdline.Cell(d.Name, 60), cmdline.Cell(d.Reason, 80),
			})
		}
		return out
	}
	what := map[adminv1.TopBy]string{
		adminv1.TopBy_TOP_BY_SENDER: "MESSAGES\tSENDER", adminv1.TopBy_TOP_BY_DOMAIN: "RECIPIENTS\tDOMAIN",
		adminv1.TopBy_TOP_BY_CLIENT: "MESSAGES\tCLIENT", adminv1.TopBy_TOP_BY_REASON: "ATTEMPTS\tREASON",
	}[by]
	out := [][]string{strings.Split(what, "\t")}
	for _, r := range l.Rows {
		count := cmdline.Count(r.Count)
		if r.Error > 0 {
			count += " (-" + cmdline.Count(r.Error) + ")"
		}
		out = append(out, []string{count, cmdline.Cell(r.Name, 120)})
	}
	return out
}
