// Package dnsx asks the DNS: a stub resolver with a cache, on the message
// format of miekg/dns and an exchange of its own.
//
// It is what delivery and policy look names up with. It does not validate
// DNSSEC: the AD flag of an answer is believed only from a resolver that is
// trusted, and reported false otherwise. It knows no search domains and no
// /etc/hosts: names are absolute, as mail's are; localhost is the one name
// that is answered without a question (RFC 6761 6.3).
//
// An answer is taken only when it answers the question that was asked, from
// the server that was asked: same ID, name, type and class. Records beside the
// chain from the name to its data are ignored, whatever section they are in.
// What a hostile server can make the resolver do is bounded: number of
// records, length of CNAME chains, stray packets, size of the cache.
//
// A Resolver is safe for concurrent use. It has no goroutine of its own; equal
// lookups at the same time share one question, which a goroutine asks and
// which ends with the last caller that waits for it, and at the latest after
// all tries timed out. Nothing is logged: failures are returned, each lookup is
// shown to Options.Observe.
//
// Errors are of three kinds: NotFoundError (the name or its data do not exist;
// errors.Is ErrNotFound), TempError (nobody could say, a later try may), and
// ErrName (no such name can exist). A context that ends gives a TempError that
// wraps the context's error.
package dnsx
