// Package serve runs the relay: it reads the configuration, makes the parts,
// joins them, and takes them down again in the right order. It is the only
// place that knows all of them; what it decides is their order and their
// settings, never what becomes of a message.
//
// # Order
//
// Up: configuration, log, HTTP (which says "starting"), spool (recovery),
// queue, admin socket, SMTP listeners, "ready". A port is bound before the
// spool is opened, so that a second relay fails at once, and served after.
//
// Down, on SIGTERM or SIGINT: SMTP sessions end (421 to idle ones, running
// transactions finish), deliveries finish or are put back, the spool closes.
//
// # Failure
//
// A wrong configuration is a config.Errors, which package main turns into exit
// code 78. When the spool can no longer keep its word the process ends at
// once with exit code 1, for nothing that it says afterwards could be trusted.
package serve
