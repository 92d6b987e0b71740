package cli

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config"
)

// The exit codes, as package cmdline has them.
const (
	ExitOK          = cmdline.ExitOK
	ExitUsage       = cmdline.ExitUsage
	ExitInterrupted = cmdline.ExitInterrupted
)

// ExitError is an error that ends the process with a certain code.
type ExitError = cmdline.ExitError

func exitCode(err error) int {
	var (
		exit  *ExitError
		usage *cmdline.UsageError
		wrong config.Errors
	)
	switch {
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &usage):
		return ExitUsage
	case errors.As(err, &wrong):
		return cmdline.ExitConfig
	case errors.Is(err, context.DeadlineExceeded):
		return cmdline.ExitUnreachable
	}
	return cmdline.ExitFailed
}

// fromCall makes an error of the relay one of ours.
func fromCall(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	code := cmdline.ExitFailed
	switch s.Code() {
	case codes.OK:
		return nil
	case codes.InvalidArgument, codes.OutOfRange:
		return &cmdline.UsageError{Err: errors.New(s.Message())}
	case codes.NotFound:
		code = cmdline.ExitNotFound
	case codes.Unavailable, codes.DeadlineExceeded:
		code = cmdline.ExitUnreachable
	case codes.PermissionDenied, codes.Unauthenticated:
		code = cmdline.ExitDenied
	case codes.FailedPrecondition, codes.Aborted, codes.AlreadyExists:
		code = cmdline.ExitConflict
	case codes.Unimplemented:
		return cmdline.Exitf(cmdline.ExitFailed, "the relay is of another version and does not know this: %s", s.Message())
	}
	return &cmdline.ExitError{Code: code, Err: errors.New(s.Message())}
}
