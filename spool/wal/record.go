package wal

import "github.com/clrelay/clrelay/spool/wal/logfile"

// What a log file is made of.
type (
	// Kind says what a record is. Those above MaxKind are the log's own.
	Kind = logfile.Kind
	// Header is what the log keeps about a record, beside its place. Append
	// computes Len.
	Header = logfile.Header
	// Pos is the place of a record: file number and offset. Places are
	// ordered as the log is.
	Pos = logfile.Pos
	// DamageError is a part of the log that cannot be read as what it was.
	DamageError = logfile.DamageError
	// Report says what Open found.
	Report = logfile.Report
	// Tail is where a log ended that was cut off by a crash.
	Tail = logfile.Tail
	// Visit is told a record, in the order of the log. data is nil for Bulk
	// kinds and valid only during the call.
	Visit = logfile.Visit
)

// MaxKind is the highest kind a caller may use; 0 is none.
const MaxKind = logfile.MaxKind

// HeaderSize is what a record takes on the disk besides its data. Records
// begin at multiples of 8.
const HeaderSize = logfile.HeaderSize

// RecordSize tells how much of a file a record with n octets of data takes.
func RecordSize(n int) int64 { return logfile.RecordSize(n) }

// Record is what Append takes. The parts of Data are written one after
// another. They must not change until the record is written, and, if waiting
// for that gave an error, never again.
type Record struct {
	Header
	Data [][]byte
}
