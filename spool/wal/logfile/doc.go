// Package logfile is what the log under the spool looks like on the disk: the
// header of a file, its records, footer and trailer, how they are read, also
// after a crash and where they are damaged, and how a file is sealed.
//
// It is no log: it appends nothing, syncs nothing but what it seals, starts no
// goroutine and holds no lock. Its one caller is package wal. A File belongs to
// one goroutine, but Read may run in many.
//
// What cannot be read is reported and costs nothing else; an error means that
// the disk refused something without which there is no going on.
package logfile
