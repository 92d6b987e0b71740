package cli_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/admin"
	"github.com/clrelay/clrelay/internal/admin/jobs"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// serveJobs starts another invented relay, which keeps jobs; CLRELAY_JOBS is
// its socket.
func serveJobs(t *testing.T, env *testscript.Env) error {
	path := filepath.Join(env.WorkDir, "jobs.sock")
	env.Setenv("CLRELAY_JOBS", path)
	l, err := admin.Listen(path)
	if err != nil {
		return err
	}
	o := adminOptions(newRelay())
	o.Name, o.Jobs = "mx1", keptJobs(t)
	srv := admin.New(o)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	env.Defer(func() {
		srv.Shutdown(context.Background())
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return nil
}

// memory keeps records.
type memory struct {
	mu      sync.Mutex
	list    []jobs.Record
	changed chan struct{}
}

func (m *memory) Records(prefix string) (list []jobs.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(m.list), func(r jobs.Record) bool { return !strings.HasPrefix(r.Key, prefix) })
}

func (m *memory) Put(_ context.Context, key string, value []byte, ifVersion uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.list, func(r jobs.Record) bool { return r.Key == key })
	switch {
	case i < 0 && ifVersion != 0, i >= 0 && m.list[i].Version != ifVersion:
		return jobs.ErrConflict
	case i < 0:
		m.list = append(m.list, jobs.Record{Key: key, Value: value, Version: 1})
	default:
		m.list[i] = jobs.Record{Key: key, Value: value, Version: ifVersion + 1}
	}
	close(m.changed)
	m.changed = make(chan struct{})
	return nil
}

func (m *memory) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func keptJobs(t *testing.T) *memory {
	m := &memory{changed: make(chan struct{})}
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now().Add(d)) }
	change := &adminv1.Change{Reason: "INC-4411", Selector: &adminv1.Selector{
		Domains: []string{"partner.example", "*.partner.example"}, ArrivedBefore: at(-time.Hour),
		States: []adminv1.RecipientState{adminv1.RecipientState_RECIPIENT_STATE_DEFERRED},
	}}
	for _, j := range []*adminv1.Job{
		{
			Id: "j-aaaaaaaa", State: adminv1.JobState_JOB_STATE_DONE, Author: "admin jane", Total: 1204, Driver: "mx2",
			Created: at(-10 * time.Minute), Started: at(-10 * time.Minute), Ended: at(-9 * time.Minute),
			Verb: &adminv1.Verb{Kind: &adminv1.Verb_Bounce{Bounce: &adminv1.BounceRequest{Change: change}}},
			Shares: []*adminv1.JobShare{
				{Node: "mx1", Process: 1, Messages: 3, Recipients: 4, Failed: 2, Bytes: 100}, {Node: "mx2", Process: 2, Messages: 1000, Recipients: 1100, Bytes: 38 << 20},
				{Node: "mx1", Process: 3, Messages: 90, Recipients: 99, Failed: 1, Bytes: 100},
			},
		},
		{
			Id: "j-bbbbbbbb", State: adminv1.JobState_JOB_STATE_FAILED, Author: "admin jane", Total: 3, Created: at(-5 * time.Minute), Ended: at(-5 * time.Minute),
			Verb: &adminv1.Verb{Kind: &adminv1.Verb_Hold{Hold: &adminv1.HoldRequest{Change: &adminv1.Change{Selector: &adminv1.Selector{Everything: true}}}}},
			Note: "odd",
		},
	} {
		value, err := proto.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		m.list = append(m.list, jobs.Record{Key: "job/" + j.GetId(), Value: value, Version: 1})
	}
	return m
}
