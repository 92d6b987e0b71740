package dnsx

import (
	"errors"
	"fmt"
)

// ErrNotFound is what every NotFoundError is: the name does not exist, or has
// no records of the type.
var ErrNotFound = errors.New("not found in the DNS")

// ErrName says that a name is none: too long, an empty label, or letters that
// no host name has.
var ErrName = errors.New("not a domain name")

// NotFoundError says for certain that there is nothing (RFC 2308 2).
type NotFoundError struct {
	Name     string
	Type     Type
	NXDomain bool // the name itself does not exist; else it has no records of the type
}

// Error names the question.
func (e *NotFoundError) Error() string {
	if e.NXDomain {
		return fmt.Sprintf("dnsx: %s does not exist", e.Name)
	}
	return fmt.Sprintf("dnsx: %s has no %v record", e.Name, e.Type)
}

// Is makes errors.Is(err, ErrNotFound) true.
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// TempError says that no server gave an answer that can be used.
type TempError struct {
	Server string // the server that was asked last, empty when none was
	Name   string
	Type   Type
	Err    error
}

// Error names server and question.
func (e *TempError) Error() string {
	at := ""
	if e.Server != "" {
		at = " at " + e.Server
	}
	return fmt.Sprintf("dnsx: %v of %s%s: %v", e.Type, e.Name, at, e.Err)
}

// Unwrap gives what went wrong.
func (e *TempError) Unwrap() error { return e.Err }

// Temporary is true: a later lookup may succeed.
func (e *TempError) Temporary() bool { return true }

// What an answer can be that is of no use; wrapped in a TempError.
var (
	errMalformed = errors.New("malformed answer")
	errLame      = errors.New("the server does not know and did not ask further")
	errChain     = errors.New("CNAME chain loops or is too long")
	errStray     = errors.New("only packets that answer other questions")
)

// rcodeError is an answer that says that the server failed.
type rcodeError int
