package cluster_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster"
	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/proto/control"
)

// Records and audit entries are kept by the cluster, whichever node is asked,
// and each node is told of each entry.
func TestLedger(t *testing.T) {
	g := newGroup(t, 3)
	g.ready()
	eventually(t, "the feature level rises", func() bool { return g.nodes[0].Overview().Level == fsm.KnownLevel })
	var group sync.WaitGroup
	const each = 10
	for _, m := range g.nodes {
		group.Go(func() {
			for i := range each {
				e := fsm.AuditEntry{Kind: control.AuditRequest, Who: m.name, Target: fmt.Sprint(i)}
				if mark, err := m.AppendAudit(t.Context(), e); err != nil || mark.Sequence == 0 {
					t.Errorf("%s: %v, %v", m.name, mark, err)
				}
			}
		})
	}
	group.Wait()
	for _, m := range g.nodes {
		head, changed := m.Audited()
		for head.Sequence < uint64(len(g.nodes)*each) {
			select {
			case <-changed:
			case <-time.After(30 * time.Second):
				t.Fatalf("%s knows %d entries", m.name, head.Sequence)
			}
			head, changed = m.Audited()
		}
		if list := m.AuditsAfter(each); len(list) < 2*each {
			t.Errorf("%s: %d entries after the first ten", m.name, len(list))
		}
	}
	g.records()
}

// records has all nodes make the same record: one does.
func (g *group) records() {
	t := g.t
	var group sync.WaitGroup
	made := make([]uint64, len(g.nodes))
	for i, m := range g.nodes {
		group.Go(func() {
			var refused *cluster.RefusedError
			version, err := m.PutRecord(t.Context(), fsm.RecordPut{Key: "job/1", Value: []byte(m.name)})
			if errors.As(err, &refused) && refused.Code == fsm.WrongVersion {
				return
			}
			if err != nil {
				t.Error(err)
			}
			made[i] = version
		})
	}
	group.Wait()
	if made[0]+made[1]+made[2] != 1 {
		t.Errorf("the versions are %v", made)
	}
	m := g.nodes[2]
	if r, ok := m.Record("job/1"); !ok || r.Version != 1 || len(m.Records("job/")) != 1 {
		t.Errorf("the record is %+v", r)
	}
	if v, err := m.PutRecord(t.Context(), fsm.RecordPut{Key: "job/1", IfVersion: 1, Delete: true}); v != 0 || err != nil {
		t.Errorf("deleting it: %d, %v", v, err)
	}
}
