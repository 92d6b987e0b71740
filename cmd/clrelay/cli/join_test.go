package cli_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/clrelay/clrelay/cluster/enroll"
	"github.com/clrelay/clrelay/cluster/fsm/records"
	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/internal/admin/certs"
	agree "github.com/clrelay/clrelay/proto/control"
)

// agreed keeps records as the cluster does.
type agreed struct {
	mu    sync.Mutex
	table records.Table
}

func (a *agreed) Records(prefix string) []agree.Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.table.List(prefix)
}

func (a *agreed) Put(_ context.Context, key string, value []byte, ifVersion uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, code := a.table.Put(agree.RecordPut{Key: key, Value: value, IfVersion: ifVersion, Delete: value == nil}); code != agree.OK {
		return enroll.ErrConflict
	}
	return nil
}

func (a *agreed) Changed() <-chan struct{} { return nil }

// certPlane is the certificates of the invented cluster: mx1 holds ca.key where
// signs is set, mx2 has said nothing.
func certPlane(env *testscript.Env, o *certs.Plane, signs bool) error {
	dir := filepath.Join(env.WorkDir, "node")
	kept := &agreed{}
	kept.table, _ = records.New(nil, 0)
	id, err := pki.Load(dir)
	if err != nil {
		return err
	}
	o.Tokens = &enroll.Tokens{Records: kept, Now: now}
	o.Desk = &enroll.Desk{
		Tokens: o.Tokens, Identity: id, Dir: dir, Self: "mx1", Now: time.Now,
		Standings: func() []enroll.Standing { return enroll.Standings(kept) },
	}
	o.Keeper = &enroll.Keeper{
		Identity: id, Dir: dir, Self: "mx1", Records: kept, Log: adminOptions(newRelay()).Log, Now: time.Now,
		Ask:     func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("unreachable") },
		Members: func() []string { return []string{"mx1", "mx2"} },
	}
	o.Addresses = func([]string) []string { return []string{"10.0.0.1:7525"} }
	if !signs {
		return nil
	}
	key, err := os.ReadFile(filepath.Join(env.WorkDir, "tls", pki.CAKeyFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, pki.CAKeyFile), key, 0o600)
	}
	if err == nil {
		err = o.Keeper.Renew(context.Background())
	}
	return err
}
