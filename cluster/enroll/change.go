package enroll

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cluster/pki"
)

const changeKey = "ca/change"

// The steps of replacing the authority.
const (
	StepTrust = "trust" // all nodes take certificates of the new one, too
	StepIssue = "issue" // all get theirs from the new one
	StepDrop  = "drop"  // the old one is forgotten
	StepAbort = "abort" // or the new one, before any node has a certificate of it
)

// RefusedError says why the replacement does not go on.
type RefusedError string

// Error says why.
func (e RefusedError) Error() string { return string(e) }

// Change is how far the replacement of the authority is.
type Change struct {
	Step   string    `json:"step"` // empty: there was none yet
	Old    string    `json:"old"`  // SHA-256 of the certificates
	New    string    `json:"new"`
	Cert   []byte    `json:"cert"`  // PEM, of the new one
	Cross  []byte    `json:"cross"` // PEM, signed by the old one
	Node   string    `json:"node"`  // that holds the new key
	Author string    `json:"author"`
	At     time.Time `json:"at"`
}

// Change tells how far the replacement is, the last one if it is over.
func (k *Keeper) Change() Change {
	c, _ := k.change()
	return c
}

func (k *Keeper) change() (c Change, version uint64) {
	for _, r := range k.Records.Records(changeKey) {
		if r.Key == changeKey && json.Unmarshal(r.Value, &c) == nil {
			version = r.Version
		}
	}
	return c, version
}

func (k *Keeper) changeVersion() uint64 {
	_, v := k.change()
	return v
}

// wanted is the authority that certificates are to be of now.
func (k *Keeper) wanted() string {
	own := k.Identity.Standing().Issuer.SHA256
	c, _ := k.change()
	if (c.Step == StepIssue || c.Step == StepDrop) && k.trusts(c.New) && own == c.Old {
		return c.New
	}
	return own
}

func (k *Keeper) trusts(hash string) bool {
	return slices.ContainsFunc(k.Identity.Standing().Trusts, func(i pki.Info) bool { return i.SHA256 == hash })
}

// follow does this node's part of the replacement.
func (k *Keeper) follow() error {
	c, _ := k.change()
	own := k.Identity.Standing().Issuer.SHA256
	changed, err := false, error(nil)
	switch {
	case c.Step == StepTrust || c.Step == StepIssue:
		next := pki.Next{Cert: c.Cert, Cross: c.Cross}
		if next.Hash() != c.New {
			return fmt.Errorf("enroll: the record of the next authority is not in order")
		}
		changed, err = pki.Trust(k.Dir, next, k.Now())
	case c.Step == StepDrop && own == c.New && k.trusts(c.Old):
		changed, err = pki.Settle(k.Dir, c.New)
	case c.Step == StepAbort && own == c.Old && (k.trusts(c.New) || k.holdsNext()):
		changed, err = pki.Settle(k.Dir, c.Old)
	}
	if err != nil {
		return err
	}
	if changed {
		if err := k.Identity.Reload(); err != nil {
			return err
		}
		k.Log.Info("the authorities of this node have changed", "step", c.Step, "trusts", len(k.Identity.Standing().Trusts))
	}
	return nil
}

func (k *Keeper) holdsNext() bool {
	_, err := os.Lstat(filepath.Join(k.Dir, pki.NextKeyFile))
	return err == nil
}

// Rotate takes one step of the replacement of the authority. It is refused until
// every node has confirmed the step before.
func (k *Keeper) Rotate(ctx context.Context, step, author string) (Change, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, version := k.change()
	if err := k.mayGo(&c, step); err != nil {
		return c, err
	}
	if step == StepTrust {
		var err error
		if c, err = k.begin(); err != nil {
			return c, err
		}
	}
	c.Step, c.Author, c.At = step, author, k.Now().UTC().Truncate(time.Second)
	value, err := json.Marshal(&c)
	if err != nil {
		return c, fmt.Errorf("enroll: %w", err)
	}
	if err := k.Records.Put(ctx, changeKey, value, version); errors.Is(err, ErrConflict) {
		return c, RefusedError("somebody else has gone on meanwhile: look at clrelay cert status")
	} else if err != nil {
		return c, err
	}
	k.Kick()
	return c, nil
}

// begin makes the new authority, on a node that holds the key of the old one.
func (k *Keeper) begin() (Change, error) {
	old := k.Identity.Standing().Issuer.SHA256
	if _, err := k.authority(old); err != nil {
		return Change{}, RefusedError(fmt.Sprintf("%s holds no ca.key, which has to vouch for the new authority; %s", k.Self, whoCan(Standings(k.Records), old, k.Self)))
	}
	next, err := pki.MakeNext(k.Dir, k.Now())
	if err != nil {
		return Change{}, err
	}
	return Change{Old: old, New: next.Hash(), Cert: next.Cert, Cross: next.Cross, Node: k.Self}, nil
}

// mayGo tells whether a step may come now.
func (k *Keeper) mayGo(c *Change, step string) error {
	var missing []string
	switch {
	case step == StepTrust && (c.Step == StepTrust || c.Step == StepIssue):
		return RefusedError("the replacement of the authority is under way, begun by " + c.Author + ": go on with it, or abort it")
	case step == StepTrust:
		ca := k.Identity.Standing().Issuer.SHA256
		missing = k.without(func(s *Standing) bool { return s.Issuer == ca && slices.Equal(s.Trusts, []string{ca}) })
		return confirm(missing, "trusts no authority but the present one")
	case step == StepIssue && c.Step == StepTrust && len(signers(Standings(k.Records), c.New)) == 0:
		return RefusedError("no node holds the key of the new authority (" + c.Node + " made it): abort, and begin anew")
	case step == StepIssue && c.Step == StepTrust:
		return confirm(k.without(func(s *Standing) bool { return slices.Contains(s.Trusts, c.New) }), "trusts the new authority")
	case step == StepDrop && c.Step == StepIssue:
		return confirm(k.without(func(s *Standing) bool { return s.Issuer == c.New }), "has a certificate of the new authority")
	case step == StepAbort && c.Step == StepTrust:
		return confirm(k.without(func(s *Standing) bool { return s.Issuer != c.New }), "has said that it has none of the new authority")
	}
	now := c.Step
	if now == "" || now == StepDrop || now == StepAbort {
		return RefusedError(fmt.Sprintf("no replacement of the authority is under way: it begins with %s", StepTrust))
	}
	return RefusedError(fmt.Sprintf("the replacement of the authority is at %s, and %s does not follow it", now, step))
}

// without names the nodes of the cluster that have not said so.
func (k *Keeper) without(said func(s *Standing) bool) (missing []string) {
	list := Standings(k.Records)
	for _, name := range k.Members() {
		i := slices.IndexFunc(list, func(s Standing) bool { return s.Node == name })
		if i < 0 || !said(&list[i]) {
			missing = append(missing, name)
		}
	}
	return missing
}

func confirm(missing []string, what string) error {
	if len(missing) == 0 {
		return nil
	}
	return RefusedError(fmt.Sprintf("not every node %s: missing is %s; wait for it, or remove a node that does not come back (clrelay node remove)", what, strings.Join(missing, ", ")))
}

// Waiting names the nodes that have not done their part of the last step.
func (k *Keeper) Waiting() []string {
	c, _ := k.change()
	switch c.Step {
	case StepTrust:
		return k.without(func(s *Standing) bool { return slices.Contains(s.Trusts, c.New) })
	case StepIssue:
		return k.without(func(s *Standing) bool { return s.Issuer == c.New })
	case StepDrop:
		return k.without(func(s *Standing) bool { return !slices.Contains(s.Trusts, c.Old) })
	case StepAbort:
		return k.without(func(s *Standing) bool { return !slices.Contains(s.Trusts, c.New) })
	}
	return nil
}
