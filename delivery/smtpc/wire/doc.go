// Package wire is the client's end of an SMTP connection below the protocol's
// rules: replies in, commands and content out, all of it bounded in time and
// length.
//
// It takes replies apart but decides nothing by them; what is said when is
// package smtpc's business, which is the only caller. A Conn belongs to one
// goroutine; Abort alone may be called from any. An error of a read or write
// marks the connection broken for good.
package wire
