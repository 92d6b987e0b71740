// Package view is how a scheduler shows what it holds.
package view

import (
	"time"

	"github.com/clrelay/clrelay/internal/mail"
)

// Counts says how much is queued.
type Counts struct {
	Messages   int // with a recipient that is not in the trash
	Recipients int // the sum of the three below
	Active     int // ready or being worked on
	Deferred   int
	Held       int
	Trashed    int       // dropped, and still to be had back
	Trash      int       // messages of which nothing else is left
	Oldest     time.Time // when the oldest message arrived; zero when there is none
	Running    int       // deliveries under way
	Lanes      int       // destinations that are known
}

// Message is what the scheduler knows of one message.
type Message[M comparable] struct {
	Msg        uint32 // for Event.Msg
	Ref        M
	Arrived    time.Time
	Recipients []Recipient // those that are not final
}

// Recipient is what it knows of one recipient.
type Recipient struct {
	Index    uint32
	State    mail.State
	Attempts uint32
	Domain   uint16
	Next     time.Time   // of a deferred one, of one that waits for a lane's probe or for a limit, of one that is held for a time or in the trash; else zero
	Lane     string      // its destination
	Why      *mail.Reply // of one that waits for its lane, why that is down, or which limit it waits for; else nil
	Limited  bool        // a limit is what it waits for
}

// Lane is what the scheduler knows of a destination.
type Lane struct {
	Key        string
	State      string      // unknown, proven, down or limited
	Running    int         // deliveries under way
	Limit      int         // how many there may be now
	Ready      int         // recipients that wait for a slot
	Recipients int         // all of them that are queued
	Why        *mail.Reply // of one that is down or limited, or else that has mail that waits for a limit
	Next       time.Time   // when one that is down is tried again, or the limit is asked again; else zero
}
