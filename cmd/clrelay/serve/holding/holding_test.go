package holding_test

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cmd/clrelay/serve/holding"
	"github.com/clrelay/clrelay/delivery/queue"
	"github.com/clrelay/clrelay/internal/admin/rules"
	"github.com/clrelay/clrelay/internal/ledger"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// told is a queue that remembers its rules.
type told struct {
	list  []queue.Rule
	times int
}

func (q *told) SetRules(list []queue.Rule) { q.list, q.times = list, q.times+1 }

func rule(id string) *adminv1.Rule {
	return &adminv1.Rule{Id: id, Selector: &adminv1.Selector{Domains: []string{"x.org"}}, Reason: "why"}
}

func TestRulesSurviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var log bytes.Buffer
		open := func() (*holding.Rules, *told, *ledger.Local) {
			local := records(t, dir)
			q := &told{}
			return holding.New(local, q, slog.New(slog.NewTextHandler(&log, nil))), q, local
		}
		h, q, _ := open()
		for _, id := range []string{"r-1", "r-2"} {
			if err := h.Put(t.Context(), rule(id)); err != nil {
				t.Fatal(err)
			}
		}
		if len(q.list) != 2 || q.list[0].ID != "r-1" || q.list[0].Reason != "why" {
			t.Errorf("the queue goes by %+v", q.list)
		}
		if err := h.Put(t.Context(), rule("r-1")); err == nil {
			t.Error("a rule took the place of another one")
		}
		h.Close()
		h, q, _ = open()
		if len(q.list) != 2 {
			t.Errorf("after a restart the queue goes by %+v", q.list)
		}
		if err := h.Delete(t.Context(), "r-1"); err != nil {
			t.Fatal(err)
		}
		if err := h.Delete(t.Context(), "r-1"); !errors.Is(err, rules.ErrNoRule) {
			t.Errorf("a rule was removed twice: %v", err)
		}
		if list, err := h.List(t.Context()); err != nil || len(list) != 1 || list[0].GetId() != "r-2" || len(q.list) != 1 {
			t.Errorf("%v, %v; the queue goes by %+v", list, err, q.list)
		}
		h.Close()
		// What cannot be read holds nothing, and is told; the others hold.
		h, q, local := open()
		defer h.Close()
		if _, err := local.PutRecord(t.Context(), fsm.RecordPut{Key: "rule/r-0", Value: []byte(`{"selector":{"new_field":["x"]}}`)}); err != nil {
			t.Fatal(err)
		}
		wait(rules.Known)
		if len(q.list) != 1 || !strings.Contains(log.String(), "rule/r-0") {
			t.Errorf("the queue goes by %+v; log %s", q.list, log.String())
		}
		if err := h.Delete(t.Context(), "r-0"); err != nil {
			t.Error("a rule that cannot be read cannot be removed:", err)
		}
	})
}

// TestAChangeElsewhereIsSeen: the rules are those of all nodes.
func TestAChangeElsewhereIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := records(t, t.TempDir())
		q, other := &told{}, &told{}
		h := holding.New(files, q, slog.New(slog.DiscardHandler))
		defer h.Close()
		o := holding.New(files, other, slog.New(slog.DiscardHandler))
		defer o.Close()
		if err := h.Put(t.Context(), rule("r-1")); err != nil {
			t.Fatal(err)
		}
		wait(rules.Known)
		if len(other.list) != 1 || other.times != 1 {
			t.Errorf("the other queue goes by %+v after %d words", other.list, other.times)
		}
		recs := files.Records("rule/")
		if _, err := files.PutRecord(t.Context(), fsm.RecordPut{Key: "rule/r-1", IfVersion: recs[0].Version, Delete: true}); err != nil {
			t.Fatal(err)
		}
		wait(rules.Known)
		if len(q.list)+len(other.list) != 0 {
			t.Errorf("%+v, %+v", q.list, other.list)
		}
	})
}

// records are those of a machine that is alone.
func records(t *testing.T, dir string) *ledger.Local {
	t.Helper()
	files, err := ledger.Open(filepath.Join(dir, "audit"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = files.Close() })
	local, err := ledger.OpenLocal(dir, files)
	if err != nil {
		t.Fatal(err)
	}
	return local
}

// wait lets time of the bubble pass.
func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
