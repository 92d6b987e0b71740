package enroll

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clrelay/clrelay/cluster/pki"
)

// keeper makes that of a node, which asks nobody.
func (w *world) keeper(dir, name string) *Keeper {
	w.t.Helper()
	return keeperOf(w.t, dir, name, w.kept, w.clock)
}

func keeperOf(t testing.TB, dir, name string, kept Records, now func() time.Time) *Keeper {
	t.Helper()
	id, err := pki.Open(pki.Options{Dir: dir, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return &Keeper{
		Identity: id, Dir: dir, Self: name, Records: kept, Log: quietLog(), Now: now, Members: func() []string { return nil },
		Ask: func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("it is not there") },
	}
}

// fleet is keepers of nodes that ask each other; the first holds ca.key.
type fleet struct {
	t     *testing.T
	kept  *memory
	ca    string
	nodes []*Keeper
	cut   bool // nobody is reached
}

func newFleet(t *testing.T, days int, names ...string) *fleet {
	f := &fleet{t: t, kept: newMemory(t), ca: filepath.Join(t.TempDir(), "ca")}
	ago := func() time.Time { return time.Now().AddDate(0, 0, -3) }
	if _, err := pki.CreateCA(pki.CAOptions{Dir: f.ca, Now: ago}); err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		dir := nodeDir(t, f.ca, name, time.Now, days)
		if i == 0 {
			copyFile(t, filepath.Join(f.ca, pki.CAKeyFile), filepath.Join(dir, pki.CAKeyFile))
		}
		k := keeperOf(t, dir, name, f.kept, time.Now)
		k.Members = func() []string { return names }
		k.Ask = func(_ context.Context, node string, der []byte) ([]byte, error) {
			i := slices.Index(names, node)
			if f.cut || i < 0 {
				return nil, errors.New("unreachable")
			}
			return f.nodes[i].SignFor(certOf(t, k.Dir), der)
		}
		f.nodes = append(f.nodes, k)
	}
	return f
}

// run runs all keepers until the bubble is left.
func (f *fleet) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	n, done := len(f.nodes), make(chan struct{}, len(f.nodes))
	for _, k := range f.nodes {
		go func() { k.Run(ctx); done <- struct{}{} }()
	}
	return func() {
		cancel()
		for range n {
			<-done
		}
	}
}

// Certificates are renewed when a third of their life is left, with new keys and
// the same names and hosts, through the one that can sign, again and again.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 90, "mx1", "mx2")
		first := []pki.Standing{f.nodes[0].Identity.Standing(), f.nodes[1].Identity.Standing()}
		defer f.run()()
		time.Sleep(59 * 24 * time.Hour)
		synctest.Wait()
		for i, k := range f.nodes {
			if k.Identity.Standing().Cert.SHA256 != first[i].Cert.SHA256 {
				t.Errorf("%s was renewed with 31 days of 90 left", k.Self)
			}
		}
		time.Sleep(26 * time.Hour)
		synctest.Wait()
		for i, k := range f.nodes {
			st := k.Identity.Standing()
			if st.Cert.SHA256 == first[i].Cert.SHA256 {
				t.Errorf("%s was not renewed with less than 30 days of 90 left", k.Self)
			}
			if st.Cert.Name != k.Self || !slices.Equal(st.Cert.Hosts, first[i].Cert.Hosts) || st.Cert.Life() != 90*24*time.Hour {
				t.Errorf("%s: %+v", k.Self, st.Cert)
			}
		}
		time.Sleep(120 * 24 * time.Hour)
		synctest.Wait()
		for _, k := range f.nodes {
			if left := time.Until(k.Identity.Standing().Cert.NotAfter); left < 29*24*time.Hour {
				t.Errorf("%s has %v left after further 120 days", k.Self, left)
			}
		}
		if n := Notes(Standings(f.kept), []string{"mx1", "mx2"}, time.Now()); len(n) != 0 {
			t.Errorf("notes: %v", n)
		}
	})
}

// One that cannot be renewed is spoken of, and renewed once it can be.
func TestRenewalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 90, "mx1", "mx2")
		f.cut = true
		stop := f.run()
		time.Sleep(61 * 24 * time.Hour)
		synctest.Wait()
		members := []string{"mx1", "mx2"}
		n := Notes(Standings(f.kept), members, time.Now())
		if len(n) != 1 || !strings.Contains(n[0], "mx2") || !strings.Contains(n[0], "could not be renewed: mx1: unreachable") {
			t.Errorf("notes: %v", n)
		}
		stop()
		f.cut = false
		defer f.run()()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := Notes(Standings(f.kept), members, time.Now()); len(n) != 0 {
			t.Errorf("notes after: %v", n)
		}
	})
}

// A node gets its own name and hosts, and nothing else.
func TestSignFor(t *testing.T) {
	f := newFleet(t, 90, "mx1", "mx2")
	mx1, shown := f.nodes[0], certOf(t, f.nodes[1].Dir)
	request := func(name string, hosts ...string) []byte {
		_, der, err := pki.NewRequest(name, hosts)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	foreign := filepath.Join(t.TempDir(), "ca")
	if _, err := pki.CreateCA(pki.CAOptions{Dir: foreign}); err != nil {
		t.Fatal(err)
	}
	ops := filepath.Join(t.TempDir(), "ops")
	if _, err := pki.Create(pki.CertOptions{Kind: pki.Admin, Dir: ops, CADir: f.ca, Name: "mx2"}); err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(ops, pki.AdminFile), filepath.Join(ops, pki.NodeFile))
	if _, err := mx1.SignFor(shown, request("mx2", "10.0.0.1")); err != nil {
		t.Errorf("its own: %v", err)
	}
	for what, c := range map[string]struct {
		dir string
		der []byte
	}{
		"another name":            {f.nodes[1].Dir, request("mx1", "10.0.0.1")},
		"other hosts":             {f.nodes[1].Dir, request("mx2", "10.0.0.1", "mail.example.edu")},
		"no hosts":                {f.nodes[1].Dir, request("mx2")},
		"no request":              {f.nodes[1].Dir, []byte("hello")},
		"another cluster's":       {nodeDir(t, foreign, "mx2", time.Now, 0), request("mx2", "10.0.0.1")},
		"an operator of its name": {ops, request("mx2")},
		"one that ended":          {nodeDir(t, f.ca, "mx2", func() time.Time { return time.Now().AddDate(0, 0, -2) }, 1), request("mx2", "10.0.0.1")},
	} {
		if _, err := mx1.SignFor(certOf(t, c.dir), c.der); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := f.nodes[1].SignFor(shown, request("mx2", "10.0.0.1")); !errors.Is(err, pki.ErrNoAuthority) {
		t.Errorf("by a node without ca.key: %v", err)
	}
}

// rotate takes a step that must be let do, or must be refused.
func (f *fleet) rotate(k *Keeper, step, refused string) {
	f.t.Helper()
	_, err := k.Rotate(context.Background(), step, "jane")
	var no RefusedError
	switch {
	case refused == "" && err != nil:
		f.t.Fatalf("%s: %v", step, err)
	case refused != "" && (!errors.As(err, &no) || !strings.Contains(err.Error(), refused)):
		f.t.Errorf("%s: %v, want a refusal with %q", step, err, refused)
	}
}

// The authority is replaced step by step, and no step comes before all have
// done the one before. Nodes talk to each other all the time.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 90, "mx1", "mx2", "mx3")
		mx1, mx2 := f.nodes[0], f.nodes[1]
		f.rotate(mx1, StepTrust, "missing is mx1, mx2, mx3")
		all := f.nodes
		f.nodes = f.nodes[:2] // mx3 is away
		stop := f.run()
		synctest.Wait()
		f.rotate(mx1, StepTrust, "missing is mx3")
		f.nodes = all
		stop()
		stop = f.run()
		synctest.Wait()
		f.rotate(mx2, StepTrust, "ask mx1")
		f.rotate(mx1, StepIssue, "no replacement of the authority is under way")
		f.rotate(mx1, StepTrust, "")
		f.rotate(mx1, StepTrust, "is under way")
		f.rotate(mx1, StepDrop, "does not follow")
		synctest.Wait()
		old := mx1.Change().Old
		for _, k := range f.nodes {
			if st := k.Identity.Standing(); len(st.Trusts) != 2 || st.Issuer.SHA256 != old {
				t.Errorf("%s after trust: %+v", k.Self, st)
			}
		}
		if w := mx2.Waiting(); len(w) != 0 {
			t.Errorf("waiting: %v", w)
		}
		f.rotate(mx2, StepIssue, "") // any node may be asked
		synctest.Wait()
		for _, k := range f.nodes {
			if st := k.Identity.Standing(); st.Issuer.SHA256 != mx1.Change().New {
				t.Errorf("%s after issue: %+v", k.Self, st)
			}
		}
		f.rotate(mx1, StepAbort, "does not follow")
		f.rotate(mx1, StepDrop, "")
		synctest.Wait()
		for _, k := range f.nodes {
			if st := k.Identity.Standing(); len(st.Trusts) != 1 || st.Trusts[0].SHA256 != mx1.Change().New {
				t.Errorf("%s after drop: %+v", k.Self, st)
			}
		}
		// The new authority signs, and can be replaced in its turn.
		if err := mx2.Renew(context.Background()); err != nil {
			t.Errorf("renewal after it: %v", err)
		}
		f.rotate(mx1, StepTrust, "")
		synctest.Wait()
		f.rotate(mx1, StepAbort, "")
		synctest.Wait()
		for _, k := range f.nodes {
			if st := k.Identity.Standing(); len(st.Trusts) != 1 || st.Issuer.SHA256 != mx1.Change().Old {
				t.Errorf("%s after abort: %+v", k.Self, st)
			}
		}
		if mx1.holdsNext() {
			t.Error("the key of the authority that was given up is still there")
		}
		f.rotate(mx1, StepTrust, "")
		stop()
	})
}

// A node that is away while certificates are issued holds the last step up, and
// what it missed it does when it is back.
func TestRotationWithANodeAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 90, "mx1", "mx2", "mx3")
		stop := f.run()
		synctest.Wait()
		f.rotate(f.nodes[0], StepTrust, "")
		synctest.Wait()
		stop()
		all := f.nodes
		f.nodes = all[:2]
		stop = f.run()
		f.rotate(all[0], StepIssue, "")
		synctest.Wait()
		f.rotate(all[0], StepDrop, "missing is mx3")
		if w := all[0].Waiting(); !slices.Equal(w, []string{"mx3"}) {
			t.Errorf("waiting: %v", w)
		}
		stop()
		f.nodes = all
		stop = f.run()
		time.Sleep(time.Minute)
		synctest.Wait()
		f.rotate(all[0], StepDrop, "")
		synctest.Wait()
		if w := all[0].Waiting(); len(w) != 0 {
			t.Errorf("waiting: %v", w)
		}
		stop()
	})
}

// What stands in the records makes no node trust an authority that none of its
// own vouches for.
func TestForgedChange(t *testing.T) {
	f := newFleet(t, 90, "mx1", "mx2")
	foreign := filepath.Join(t.TempDir(), "ca")
	if _, err := pki.CreateCA(pki.CAOptions{Dir: foreign}); err != nil {
		t.Fatal(err)
	}
	n, err := pki.MakeNext(foreign, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	mx2 := f.nodes[1]
	old := mx2.Identity.Standing().Issuer.SHA256
	for _, step := range []string{StepTrust, StepIssue, StepDrop} {
		value := []byte(`{"step":"` + step + `","old":"` + old + `","new":"` + n.Hash() + `","cert":` + quoted(n.Cert) + `,"cross":` + quoted(n.Cross) + `}`)
		version := mx2.changeVersion()
		if err := f.kept.Put(t.Context(), changeKey, value, version); err != nil {
			t.Fatal(err)
		}
		if mx2.Change().New != n.Hash() {
			t.Fatal("the record was not read")
		}
		_ = mx2.step(t.Context()) // that it trusts nobody new is what counts
		if st := mx2.Identity.Standing(); len(st.Trusts) != 1 || st.Issuer.SHA256 != old {
			t.Errorf("%s: %+v", step, st)
		}
	}
}

func quoted(text []byte) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return string(b)
}
