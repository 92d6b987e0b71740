// Package event is what a scheduler is told and what it says: events in, actions
// out.
package event

import (
	"time"

	"github.com/clrelay/clrelay/delivery/queue/sched/gate"
	"github.com/clrelay/clrelay/delivery/queue/sched/turns"
	"github.com/clrelay/clrelay/internal/mail"
)

// EventKind says what happened.
type EventKind uint8

// The kinds of events, with the fields of Event that belong to each.
const (
	Tick     EventKind = iota // time passed: nothing else
	Add                       // a message: Ref, Arrived, Sender, Class, Recipients
	Finished                  // a job ended: Job, Reach, Why, Denied, Results
	Admitted                  // the limits let a delivery through that Asks: Job
	Relax                     // limits may have changed: whoever waits for one asks again
	Command                   // an operator's word on one message: Op, Msg, Ref, Which, Tag
	Run                       // start deliveries; a new Scheduler does not
	Pause                     // start nothing more; what runs goes on
)

// Event is one thing that happened. The caller may use it again after Step.
type Event[M comparable] struct {
	Kind EventKind

	Ref        M         // the caller's name of the message
	Arrived    time.Time // or, in the future, when its time begins
	Sender     uint32    // mail of equal Sender shares a turn within a lane; the two highest bits do not count
	Class      Class
	Recipients []Recipient

	Job     JobID
	Reach   Reach
	Why     *mail.Reply  // with Overloaded and Unreachable: what every waiting recipient is told
	Denied  *gate.Denied // a limit let nothing more go out: what is active in Results goes back to the front and waits for it; else nil
	Results []Result     // one for each of Action.Items, in that order

	Op    Op
	Msg   uint32   // from View.Msg; it must still belong to Ref, or nothing happens
	Which []uint32 // indexes of recipients, rising; nil means all
	Tag   uint64   // comes back in the actions that answer the command
}

// Recipient is one recipient of an added message that is not final.
type Recipient struct {
	Index    uint32 // in the envelope, below 1<<16
	Domain   uint16 // recipients of one domain have the same; comes back in a View
	Lane     string // mail.NextHop.Key
	State    mail.State
	Attempts uint32
	Next     time.Time // of a deferred one; of a held one, until when, zero for good; of one in the trash, until when
	End      time.Time // when it is given up; zero: by Config.Expire
}

// Class is how urgent mail is, the zero value Normal.
type Class = turns.Class

// JobID names a job from the action that starts it to the event that ends it.
type JobID uint64

// Reach says what a delivery job taught about its destination.
type Reach uint8

// What can be learned about a destination.
const (
	NothingLearned Reach = iota // it was not spoken to: aborted, rerouted, content damaged
	Answered                    // it speaks, and refused for now: neither faster nor slower
	Working                     // it took or refused something for good: it can take more
	Overloaded                  // it spoke and took nothing, asked for less, or timed out: slow down
	Unreachable                 // nobody answered
)

// Result is what became of one recipient of a job.
type Result struct {
	// State is a final one; StateDeferred, a try that failed for now;
	// StateHeld, StateTrashed; or StateActive: nothing was tried.
	State mail.State
	// Denied, with StateActive, is a limit that keeps this recipient and not
	// all of its lane or sender, such as one on its domain: it waits aside, and
	// others go on.
	Denied *gate.Denied
	// Next is when a deferred one is tried again, as the caller recorded it.
	// With StateActive: not before then, zero is at once. With StateHeld: until
	// then, zero is until released. With StateTrashed: until then.
	Next time.Time
	Same bool      // with StateDeferred: nothing was tried
	Lane string    // with StateActive and StateHeld: the lane it belongs to now; empty: unchanged
	End  time.Time // when it is given up; zero: as before
}

// Op is an operator's word.
type Op uint8

// The operator's words, and one of the cluster's.
const (
	Retry    Op = iota // a deferred recipient becomes ready now
	Hold               // it is kept until released
	Release            // a held recipient becomes ready now
	Drop               // it ends without a word to anybody
	Bounce             // it ends, and its sender is told
	Withdraw           // it leaves this scheduler: another node's does it from now on
	Trash              // it is dropped, and can be brought back for a while
	Undrop             // it comes back from there
	Reroute            // it goes elsewhere from now on
	Expire             // it is given up at another time
)

// ActionKind says what is to be done.
type ActionKind uint8

// The kinds of actions. The first six start a job: the caller carries it out
// and ends it with exactly one Finished event.
const (
	Deliver   ActionKind = iota // one transaction: Job, Lane, Asks, Items (all of one message)
	Postpone                    // record as deferred without a try: Job, Items, Why
	GiveUp                      // expired: Job, Items (all of one message); the result is StateFailed, or StateActive with Next if that could not be recorded
	Warn                        // tell the sender of a delay: Job, Items (all of one message, and not the job's own: Results stays empty)
	Operate                     // record an operator's word: Job, Op, Tag, Items (all of one message)
	Purge                       // its time in the trash is over: Job, Items (all of one message); the result is StateDropped, or StateTrashed with Next if that could not be recorded
	Cancel                      // abort a delivery as soon as that is safe: Job
	Answer                      // to a command: Tag, Count recipients changed, Waiting for their delivery to end
	Overtaken                   // Count recipients of an earlier Waiting became final by their delivery: Tag
)

// Action is one thing to do. Items belongs to the receiver; the slice of
// actions itself is valid until the next Step.
type Action[M comparable] struct {
	Kind    ActionKind
	Op      Op
	Job     JobID
	Lane    string
	Items   []Item[M]
	Why     *mail.Reply
	Asks    bool // others wait for what a limit says to this delivery: Admitted is wanted as soon as that is known
	Tag     uint64
	Count   int
	Waiting int
}

// Item is one recipient of a job.
type Item[M comparable] struct {
	Ref       M
	Recipient uint32 // index in the envelope
	Attempts  uint32 // before this job
	// Last says that a temporary failure of this try is the end.
	Last bool
	// Delay is how long to wait after this try should it fail for now.
	Delay time.Duration
}
