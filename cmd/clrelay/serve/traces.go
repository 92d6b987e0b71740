package serve

import (
	"path/filepath"
	"time"

	"github.com/clrelay/clrelay/cmd/clrelay/serve/observe"
	"github.com/clrelay/clrelay/internal/tracelog"
)

// traceDir is the folder of the traces in data_dir.
const traceDir = "trace"

// openTraces begins to remember what happens to messages. What is wrong with
// the disk is logged there: no mail waits for it.
func (r *relay) openTraces() {
	o := tracelog.Options{Dir: filepath.Join(string(r.conf().node.DataDir), traceDir), Reserve: uint64(r.conf().cluster.Spool.Reserve), Log: r.log}
	o.Keep, o.MaxSize = r.conf().traces()
	if m := r.parts.member; m != nil {
		o.Copies = observe.Copies(m)
	}
	r.parts.traces.Log, r.parts.traces.Node = tracelog.Open(o), string(r.conf().node.Name)
}

// traces tells how long and how much of them is kept. The time counts from a
// message's end, which comes queue.expire after its begin at the latest, and
// all of its traces are to be there until then.
func (s *settings) traces() (keep time.Duration, maxSize int64) {
	return time.Duration(s.cluster.Trace.Keep) + time.Duration(s.cluster.Queue.Expire), int64(s.cluster.Trace.MaxSize)
}

func (r *relay) tracesLost() uint64 {
	n, _ := r.parts.traces.Log.Lost()
	return n
}
