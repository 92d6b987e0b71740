// Package received reads what comes to a return path: reports of failed and
// late delivery, complaints, answers of machines, and what is none of these.
//
// Reports that keep to RFC 3464 or RFC 6533 are read by package dsn, those of
// RFC 5965 here. Many systems write neither, but text for people: of that the
// part in front of the returned message is taken, the recipients that stand at
// the beginning of a line, and what is said of each (text.go).
//
// Read takes the message as a stream and keeps a bounded part of it. A message
// is never an error for what it says; the only errors are the reader's.
package received
