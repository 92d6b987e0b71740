package sim

import (
	"fmt"
	"strings"

	"github.com/clrelay/clrelay/cluster/segment"
)

// traceStep writes an event with what came of it.
func (p *process) traceStep(in inboxed, acts []segment.Action) {
	var b strings.Builder
	switch ev := in.ev.(type) {
	case *segment.Tick:
		if len(acts) == 0 || len(acts) == 1 && acts[0].Kind == segment.ActBeacon {
			return
		}
		b.WriteString("tick")
	case *segment.Applied:
		fmt.Fprintf(&b, "applied %d", ev.Index)
		if ev.Full {
			fmt.Fprintf(&b, " full, %d segments", len(ev.Segments))
		}
		for _, g := range ev.Segments {
			fmt.Fprintf(&b, " %v@%v/%v", g.ID, g.Epoch, g.State)
		}
		if len(ev.Segments)+len(ev.Gone)+len(acts) == 0 {
			return
		}
	case *segment.Received:
		fmt.Fprintf(&b, "from %s:", ev.From.Node)
		for _, it := range ev.Items {
			b.WriteString(" " + itemText(it))
		}
	default:
		fmt.Fprintf(&b, "%T%+v", ev, ev)
	}
	for i := range acts {
		b.WriteString("\n" + strings.Repeat(" ", 26) + actText(&acts[i]))
	}
	p.c.w.logf("%s %s", p.n.name, strings.ReplaceAll(b.String(), "*segment.", ""))
}

func itemText(it segment.Item) string {
	names := []string{"?", "append", "ack", "gap", "refused", "results", "results-ack", "ask", "answer", "inventory", "merged", "sync", "fetch", "copy", "trouble", "damaged"}
	return fmt.Sprintf("%s(%v@%v %d %d)", names[min(int(it.Kind), len(names)-1)], it.Segment, it.Epoch, it.Seq&^segment.LastPiece, it.Arg)
}

func actText(a *segment.Action) string {
	names := []string{
		"?", "send", "propose", "propose-node", "acked", "moved", "lost", "results-acked", "store", "store-results", "set-segment",
		"own", "disown", "pause", "resume", "quiesce", "send-inventory", "merge", "fetch", "serve", "put", "forget", "beacon", "alarm", "fatal",
	}
	s := names[min(int(a.Kind), len(names)-1)]
	switch a.Kind {
	case segment.ActSend:
		return "-> send " + a.Peer.Node + " " + itemText(a.Item)
	case segment.ActPropose:
		return "-> propose " + opsText(a.Ops)
	case segment.ActSetSegment:
		return "-> set " + segText(a.Record.ID, a.Record, true)
	case segment.ActAlarm, segment.ActFatal:
		return fmt.Sprintf("-> %s %v %s", s, a.Segment, a.Why)
	}
	return fmt.Sprintf("-> %s %v@%v %d-%d peer=%s token=%d", s, a.Segment, a.Epoch, a.First, a.Seq, a.Peer.Node, a.Token)
}
