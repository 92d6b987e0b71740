package cmdline

import (
	"errors"
	"fmt"
)

// The exit codes. Scripts rely on them: they never change.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitNotFound    = 3
	ExitUnreachable = 4 // or no leader; a retry is safe
	ExitDenied      = 5
	ExitConflict    = 6 // or a guard refused
	ExitPartly      = 7
	ExitFindings    = 8
	ExitConfig      = 78 // EX_CONFIG: systemd need not start it again
	ExitInterrupted = 130
)

// ExitError is an error that ends the process with a certain code.
type ExitError struct {
	Code int
	Err  error
}

// Error is the text of Err.
func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap gives Err.
func (e *ExitError) Unwrap() error { return e.Err }

// Exitf makes an error that ends the process with a code.
func Exitf(code int, format string, args ...any) error {
	return &ExitError{code, fmt.Errorf(format, args...)}
}

// Passing tells whether a call that ended so may go well at another node, or at
// the same one later. An error that is none is one, too: the answer was cut off.
func Passing(err error) bool {
	var exit *ExitError
	return err == nil || errors.As(err, &exit) && exit.Code == ExitUnreachable
}

// UsageError is a mistake on the command line.
type UsageError struct {
	Command string // whose help explains it; empty where none does
	Err     error
}

// Error is the text of Err.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap gives Err.
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef makes a UsageError.
func Usagef(command, format string, args ...any) error {
	return &UsageError{command, fmt.Errorf(format, args...)}
}
