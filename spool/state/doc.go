// Package state is what the spool knows in memory: the index of unfinished
// messages, the segments they are in, which log files hold what is still
// needed, and how all that follows from the records of a log.
//
// It is the spool's thinking without its doing: it reads and writes nothing,
// starts no goroutine, takes no lock and asks no clock. Package spool, its only
// caller, appends records and tells it where they went; a State and all that
// hangs on it is guarded by the spool's lock, but for those methods that say
// otherwise. Callers outside see Message, Result, RecipientState and
// DamageError under the names they have in package spool.
//
// Nothing here fails but what is asked of it wrongly (an error) and what is
// damaged (a *DamageError in a list): an inconsistency costs the message it
// is about.
package state
