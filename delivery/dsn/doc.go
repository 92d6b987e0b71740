// Package dsn writes and reads delivery status notifications: the reports
// that tell a sender what became of a message (RFC 3461, RFC 3464, RFC 6522,
// RFC 6533).
//
// Wanted and ForOutcome say who is to be told what; Build turns facts into an
// envelope and a content for the spool; Parse reads reports, ours and others'.
// The package keeps no queue, decides no schedule and does no I/O but reading
// the original's content from the reader that it is given. delivery/queue is
// its caller. It starts no goroutine; nothing here is shared between calls.
//
// What others wrote (replies, addresses, headers) goes into a report only
// after everything is taken out of it that could end a line, a field or a
// body part. Build fails on facts that make no report, and with the error of
// the original's reader; its own content reader hands on the errors of the
// original's reader as they are.
package dsn
