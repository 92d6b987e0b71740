// Package alike lets the program stand in for the commands that others expect
// of a mail system: called by the name sendmail, mailq or postqueue it behaves
// as Postfix's commands of that name, as far as a relay has what they are
// about. It knows no more of the relay than any operator: mail goes in by SMTP,
// and the queue is asked over the admin API.
//
// Everything here ends with a code of sysexits.h, which local programs know. A
// failure says on stderr whether anything was queued.
package alike

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/cmd/clrelay/submit"
	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config"
)

// Codes of sysexits.h.
const (
	exOK          = 0
	exUsage       = 64
	exDataErr     = 65
	exNoInput     = 66
	exNoUser      = 67
	exUnavailable = 69
	exIOErr       = 74
	exTempFail    = 75
	exNoPerm      = 77
)

// Process is what the commands use of theirs.
type Process struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Now            func() time.Time
	// With connects to the relay, calls f, and explains its error.
	With func(f func(conn grpc.ClientConnInterface) error) error
	// Config is the path of node.yaml, which says where mail goes in and what
	// this machine is called. It need not be there.
	Config string
	// User is the login name and the full name of who calls.
	User func() (login, name string)
}

// Is tells whether a program of that path is one of these commands.
func Is(path string) bool {
	switch filepath.Base(path) {
	case "sendmail", "mailq", "postqueue":
		return true
	}
	return false
}

// Run is the command of that name. It returns the exit code.
func Run(ctx context.Context, p *Process, path string, args []string) int {
	c := &call{Process: p, name: filepath.Base(path)}
	var err error
	if c.name == "postqueue" {
		err = c.postqueue(ctx, args)
	} else {
		err = c.sendmail(ctx, args)
	}
	if err == nil {
		return exOK
	}
	if ctx.Err() != nil {
		err = fail(exTempFail, "interrupted: %w", err)
	}
	fmt.Fprintf(c.Stderr, "%s: %v\n", c.name, err)
	return code(err)
}

type call struct {
	*Process
	name string
}

// exit is an error with its code.
type exit struct {
	code int
	err  error
}

// Error is the text of err.
func (e *exit) Error() string { return e.err.Error() }

// Unwrap gives err.
func (e *exit) Unwrap() error { return e.err }

func fail(code int, format string, args ...any) error {
	return &exit{code, fmt.Errorf(format, args...)}
}

// code is that of an error, whoever made it.
func code(err error) int {
	var (
		ours   *exit
		theirs *cmdline.ExitError
		usage  *cmdline.UsageError
	)
	switch {
	case errors.As(err, &ours):
		return ours.code
	case errors.As(err, &usage):
		return exUsage
	case !errors.As(err, &theirs):
		return exUnavailable
	}
	switch theirs.Code {
	case cmdline.ExitDenied:
		return exNoPerm
	case cmdline.ExitNotFound:
		return exDataErr
	case cmdline.ExitConfig:
		return cmdline.ExitConfig
	}
	return exUnavailable
}

// server is the relay's door, and what this machine is called.
func (c *call) server() submit.Server {
	s := submit.Server{Addr: c.Getenv("CLRELAY_SMTP"), Hostname: "localhost.localdomain"}
	if name, err := os.Hostname(); err == nil && name != "" {
		s.Hostname = name
	}
	if node, err := config.LoadNode(c.Config); err == nil { // others need not be able to read it
		s.Hostname = string(node.Hostname)
		if s.Addr == "" {
			s.Addr = submit.Door(node)
		}
	}
	if s.Addr == "" {
		s.Addr = submit.DefaultAddr
	}
	return s
}

// options reads arguments as getopt does: spec names the letters that are
// known, one that takes a value with ":" behind it. Options end at the first
// argument that is none, or at "--".
func options(spec string, args []string, set func(letter byte, value string) error) (rest []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		if len(arg) < 2 || arg[0] != '-' {
			break
		}
		args = args[1:]
		if arg == "--" {
			break
		}
		for i := 1; i < len(arg); i++ {
			at := strings.IndexByte(spec, arg[i])
			if at < 0 || arg[i] == ':' {
				return nil, fail(exUsage, "unknown option -%c", arg[i])
			}
			if at+1 == len(spec) || spec[at+1] != ':' {
				if err := set(arg[i], ""); err != nil {
					return nil, err
				}
				continue
			}
			value := arg[i+1:]
			if value == "" {
				if len(args) == 0 {
					return nil, fail(exUsage, "option -%c needs a value", arg[i])
				}
				value, args = args[0], args[1:]
			}
			if err := set(arg[i], value); err != nil {
				return nil, err
			}
			break
		}
	}
	return args, nil
}

// CurrentUser is the login name and the full name of the process's user.
func CurrentUser() (login, name string) {
	u, err := user.Current()
	if err != nil { // it has no name
		return "uid" + strconv.Itoa(os.Getuid()), ""
	}
	return u.Username, u.Name
}
