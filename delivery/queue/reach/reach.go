// Package reach draws from the outcomes of an attempt what they say of the
// destination.
package reach

import (
	"github.com/clrelay/clrelay/delivery/queue/sched"
	"github.com/clrelay/clrelay/internal/mail"
)

// Of tells it from the outcomes that count, and why it is so where that is no
// good news.
func Of(outs []mail.Outcome, counts []bool) (sched.Reach, *mail.Reply) {
	asked, reached, busy := false, false, true
	var why *mail.Reply
	for i := range outs {
		o := &outs[i]
		if !counts[i] {
			continue
		}
		asked = true
		if o.Remote != "" && (o.Reply.Positive() || o.Reply.Permanent()) {
			return sched.Working, nil
		}
		reached = reached || o.Remote != "" || o.Reply.Permanent()
		busy = busy && (o.Unsure || o.Reply.Code == 421 || o.Reply.Temporary() && (o.Reply.Enhanced[1] == 3 || o.Reply.Enhanced[1] == 4))
		why = &o.Reply
	}
	switch {
	case !asked:
		return sched.NothingLearned, nil
	case !reached:
		return sched.Unreachable, why
	case busy:
		// All of it for reasons of the system or the network (RFC 3463 3.4,
		// 3.5): not the recipients' matter.
		return sched.Overloaded, why
	}
	return sched.Answered, nil
}
