package sched

import "github.com/clrelay/clrelay/delivery/queue/sched/event"

// What the scheduler is told and what it says.
type (
	Event[M comparable]  = event.Event[M]
	Action[M comparable] = event.Action[M]
	Item[M comparable]   = event.Item[M]
	Recipient            = event.Recipient
	Result               = event.Result
	Class                = event.Class
	JobID                = event.JobID
	Reach                = event.Reach
	Op                   = event.Op
	ActionKind           = event.ActionKind
)

// The kinds of events, what can be learned of a destination, the words of
// operators and the kinds of actions.
const (
	Tick, Add, Finished, Admitted, Relax                       = event.Tick, event.Add, event.Finished, event.Admitted, event.Relax
	Command, Run, Pause                                        = event.Command, event.Run, event.Pause
	NothingLearned, Answered, Working, Overloaded, Unreachable = event.NothingLearned, event.Answered, event.Working, event.Overloaded, event.Unreachable
	Retry, Hold, Release, Drop, Bounce                         = event.Retry, event.Hold, event.Release, event.Drop, event.Bounce
	Withdraw, Trash, Undrop, Reroute, Expire                   = event.Withdraw, event.Trash, event.Undrop, event.Reroute, event.Expire
	Deliver, Postpone, GiveUp, Warn, Operate                   = event.Deliver, event.Postpone, event.GiveUp, event.Warn, event.Operate
	Purge, Cancel, Answer, Overtaken                           = event.Purge, event.Cancel, event.Answer, event.Overtaken
)
