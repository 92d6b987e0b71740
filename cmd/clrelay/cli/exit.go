package cli

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/config"
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

func exitf(code int, format string, args ...any) error {
	return &ExitError{code, fmt.Errorf(format, args...)}
}

// usageError is a mistake on the command line.
type usageError struct {
	command string // whose help explains it
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(command, format string, args ...any) error {
	return &usageError{command, fmt.Errorf(format, args...)}
}

func exitCode(err error) int {
	var (
		exit  *ExitError
		usage *usageError
		wrong config.Errors
	)
	switch {
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &usage):
		return ExitUsage
	case errors.As(err, &wrong):
		return ExitConfig
	case errors.Is(err, context.DeadlineExceeded):
		return ExitUnreachable
	}
	return ExitFailed
}

// fromCall makes an error of the relay one of ours.
func fromCall(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	code := ExitFailed
	switch s.Code() {
	case codes.OK:
		return nil
	case codes.InvalidArgument, codes.OutOfRange:
		return &usageError{"", errors.New(s.Message())}
	case codes.NotFound:
		code = ExitNotFound
	case codes.Unavailable, codes.DeadlineExceeded:
		code = ExitUnreachable
	case codes.PermissionDenied, codes.Unauthenticated:
		code = ExitDenied
	case codes.FailedPrecondition, codes.Aborted, codes.AlreadyExists:
		code = ExitConflict
	case codes.Unimplemented:
		return exitf(ExitFailed, "the relay is of another version and does not know this: %s", s.Message())
	}
	return &ExitError{code, errors.New(s.Message())}
}
