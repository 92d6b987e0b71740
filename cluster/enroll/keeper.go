package enroll

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/clrelay/clrelay/cluster/pki"
)

const (
	checkEvery = time.Hour
	retryFirst = time.Second      // while something is half done, or nobody leads
	retryEvery = 10 * time.Second // and later
	warnAfter  = 8                // tries, about a minute
	stepTime   = time.Minute
)

// Keeper keeps the certificate of a node: it renews it when a third of its life
// is left, follows the replacement of the authority, and says how it stands.
type Keeper struct {
	Identity *pki.Identity
	Dir      string // tls_dir
	Self     string
	Records  Records
	Log      *slog.Logger
	Now      func() time.Time
	// Ask has another node sign a request.
	Ask func(ctx context.Context, node string, der []byte) ([]byte, error)
	// Members are the nodes that belong to the cluster.
	Members func() []string

	mu      sync.Mutex // one step, or renewal by hand, at a time
	problem string
	wake    chan struct{}
	once    sync.Once
}

func (k *Keeper) woken() chan struct{} {
	k.once.Do(func() { k.wake = make(chan struct{}, 1) })
	return k.wake
}

// Kick makes Run look again at once: the certificates were read anew.
func (k *Keeper) Kick() {
	select {
	case k.woken() <- struct{}{}:
	default:
	}
}

// Run keeps the certificate until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	seen, tries := ^uint64(0), 0
	for {
		changed := k.Records.Changed()
		wait := checkEvery*3/4 + rand.N(checkEvery/2)
		seen = k.changeVersion()
		err := k.step(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			wait = min(retryEvery, retryFirst<<min(tries, 4))
			if tries++; tries == warnAfter {
				k.Log.Warn("keeping the certificate of this node; it is tried again", "error", err)
			}
		} else {
			tries = 0
		}
		t := time.NewTimer(wait)
		for again := false; !again; {
			select {
			case <-changed:
				changed = k.Records.Changed()
				again = k.changeVersion() != seen
			case <-k.woken():
				again = true
			case <-t.C:
				again = true
			case <-ctx.Done():
				t.Stop()
				return
			}
		}
		t.Stop()
	}
}

// step does what is to be done now. The error is of what is tried again soon;
// a certificate that nobody could renew waits for the next look.
func (k *Keeper) step(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.follow()
	st := k.Identity.Standing()
	want := k.wanted()
	switch {
	case st.Issuer.SHA256 != want:
		err = errors.Join(err, k.renew(ctx))
	case k.due(&st):
		if e := k.renew(ctx); e != nil {
			problem := "it could not be renewed: " + Plain(e)
			if problem != k.problem {
				k.Log.Warn("the certificate of this node could not be renewed; it is tried again every hour", "until", st.Cert.NotAfter, "error", e)
			}
			k.problem = problem
		}
	default:
		k.problem = ""
	}
	err = errors.Join(err, k.follow()) // with a new certificate more can be done
	return errors.Join(err, k.tell(ctx))
}

// Plain is an error's text without the package that found it.
func Plain(err error) string {
	return strings.TrimPrefix(strings.TrimPrefix(err.Error(), "enroll: "), "pki: ")
}

// due tells whether a certificate has a third of its life left, or less, and
// a new one would live longer.
func (k *Keeper) due(st *pki.Standing) bool {
	left := st.Cert.NotAfter.Sub(k.Now())
	return left <= st.Cert.Life()/3 && st.Cert.NotAfter.Before(st.Issuer.NotAfter)
}

// Renew gets this node a new certificate now, and returns once it is in use.
func (k *Keeper) Renew(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.renew(ctx)
	if err == nil {
		if e := k.tell(ctx); e != nil {
			k.Log.Warn("the others do not know of the new certificate of this node yet", "error", e)
			k.Kick()
		}
	}
	return err
}

func (k *Keeper) renew(ctx context.Context) error {
	st := k.Identity.Standing()
	key, der, err := pki.NewRequest(k.Self, st.Cert.Hosts)
	if err != nil {
		return err
	}
	cert, err := k.signed(ctx, &st, der)
	if err != nil {
		return err
	}
	if err := pki.Install(k.Dir, pki.Pair{Key: key, Cert: cert, Name: k.Self}, k.Now()); err != nil {
		return err
	}
	if err := k.Identity.Reload(); err != nil {
		return err
	}
	k.problem = ""
	k.Log.Info("this node has a new certificate", "until", k.Identity.Standing().Cert.NotAfter)
	return nil
}

// signed has a request signed, here or by another node.
func (k *Keeper) signed(ctx context.Context, st *pki.Standing, der []byte) ([]byte, error) {
	want := k.wanted()
	ca, err := k.authority(want)
	if err == nil {
		req, err := pki.ParseRequest(der)
		if err != nil {
			return nil, err
		}
		return ca.Sign(req, k.life(&st.Cert), k.Now())
	}
	if !errors.Is(err, pki.ErrNoAuthority) {
		return nil, err
	}
	var errs []string
	for _, node := range signers(Standings(k.Records), want) {
		if node == k.Self {
			continue
		}
		cert, err := k.Ask(ctx, node, der)
		if err == nil {
			return cert, nil
		}
		errs = append(errs, node+": "+Plain(err))
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("enroll: no node holds ca.key and can sign: make it with \"clrelay cert create-node\" and reload, or put ca.key into the tls_dir of a node")
	}
	return nil, fmt.Errorf("enroll: %s", strings.Join(errs, "; "))
}
