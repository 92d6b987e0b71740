package ledger

import (
	"context"
	"fmt"

	"github.com/clrelay/clrelay/cluster/fsm"
	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
)

// Suppressed is the cluster's suppression list, as far as it is applied here. It
// is the same one at any time.
func (l *Ledger) Suppressed() (t *suppressed.Table) {
	l.o.Read(func(s *fsm.State) { t = s.Suppressed() })
	return t
}

// Suppress changes the suppression list, and gives the outcome of each entry
// once it is applied here. Below the feature level it fails with ErrLevel. To do
// it twice is harmless.
func (l *Ledger) Suppress(ctx context.Context, c fsm.SuppressOps) ([]fsm.OpResult, error) {
	res, err := l.o.Propose(ctx, c)
	if err == nil && res.Code == fsm.LevelTooLow {
		var level uint32
		l.o.Read(func(s *fsm.State) { level = s.Level() })
		return nil, fmt.Errorf("%w (feature level %d, and %d is needed)", ErrLevel, level, fsm.LimitLevel)
	}
	if err == nil && res.Code != fsm.OK {
		err = l.o.Refused(res)
	}
	return res.Ops, err
}
