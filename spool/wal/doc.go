// Package wal is the append-only log under the spool. It knows files and
// records; what a record means, its segment, epoch and sequence number are
// opaque to it. It is no database: there is no index and no deletion of single
// records, only of whole files, by its one caller, package spool.
//
// # Files
//
// The log is a row of files of one size, filled with zeros before their first
// use so that a write into them needs no room and changes no metadata. Each
// carries a number, which rises and says its place in the row, inside an
// incarnation that is part of every record's header. Free gives an emptied
// file its next incarnation, on the disk, before it becomes a spare, so that
// what it held can never be taken for something new. A full file ends in a
// footer that repeats the headers, and the data too of all kinds that are not
// Bulk, so that opening reads footers and not bodies. The footer is written
// once everything before it is durable, and so vouches for it.
//
// # Durability
//
// A writer goroutine takes all that is pending and writes it with one
// pwritev; a syncer goroutine makes what is written durable and tells all who
// wait: one fdatasync serves many appends, and writing goes on meanwhile. A
// third goroutine, the keeper, prepares spare files and writes footers.
//
// Each write begins with a mark that states up to where the log was durable
// then. After a crash, an unreadable record below such a statement is damage:
// it is reported, costs itself and nothing else, and its file is never freed.
// An unreadable record above all of them is the torn tail: the log ends
// there, durably, before Open returns.
//
// # Failure
//
// A write or sync that fails, or takes longer than HangLimit, poisons the
// log: nothing more is acknowledged, every call fails with ErrPoisoned,
// Options.Fatal is called once. Nothing is retried. A full disk is no such
// failure: it only ends the supply of new files, and Append says ErrNoSpace.
//
// All methods may be called from any goroutine. Of the two locks, that of the
// pool is taken before that of the log.
package wal
