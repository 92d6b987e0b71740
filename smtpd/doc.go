// Package smtpd is the SMTP server: the session engine between a socket and
// Acceptor.Accept, the one door to 250 (RFC 5321, 1869 and the extensions
// that EHLO names).
//
// It is not a mail store and knows no queue, no route and no DNS: whether a
// client may relay is Policy's word, whether a message is kept is Acceptor's.
// cmd/clrelay builds a Server, calls Serve once a listener, and Reload,
// Drain and Shutdown when the operator asks.
//
// A session is one goroutine that owns all its state. The verbs of the
// protocol are methods named by the verb, each of which takes the argument
// and gives the reply; wire moves octets, keeps deadlines and writes replies
// in batches (RFC 2920); body is the io.Reader that Acceptor pulls the
// content through, so that no message is ever whole in memory and the client
// is held back as long as Acceptor is busy. Drain and Shutdown reach into a
// session through its wire alone.
//
// What a client may count on: lines end in CRLF and in nothing else, in
// commands and in content. Octets of a content, accepted or refused, are
// never read as commands: the end is found, or the connection is closed.
// 250 goes out after Acceptor returned nil for a content that was read to its
// end, and in no other case. Failures of one session end that session alone;
// an error of Acceptor that is no *mail.Reply becomes 451 and is logged.
package smtpd
