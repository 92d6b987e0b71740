// Package cli is the operator's side of the clrelay command: the tree of
// commands that look at and change a running relay, and those that check
// files, with their output and exit codes.
//
// It speaks to the relay over its admin socket alone and knows nothing of how
// a relay runs; serve and demo are added to the tree by package main. Data
// goes to stdout and talk to stderr. Every format but the table is stable:
// keys of JSON, JSON lines and YAML are there always, under the same name.
//
// A command returns an error, which Execute alone prints and turns into the
// exit code. Nothing here starts a goroutine or touches the process's own
// streams: App brings them, so that tests can bring others.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clrelay/clrelay/cmd/clrelay/cli/access"
	"github.com/clrelay/clrelay/cmd/clrelay/cli/cluster"
	"github.com/clrelay/clrelay/cmd/clrelay/cli/complete"
	"github.com/clrelay/clrelay/cmd/clrelay/cli/debug"
	"github.com/clrelay/clrelay/cmd/clrelay/cli/doctor"
	"github.com/clrelay/clrelay/cmd/clrelay/cli/jobs"
	"github.com/clrelay/clrelay/cmd/clrelay/cli/limits"
	"github.com/clrelay/clrelay/cmd/clrelay/cli/manual"
	"github.com/clrelay/clrelay/cmd/clrelay/cli/queue"
	"github.com/clrelay/clrelay/cmd/clrelay/cli/suppress"
	"github.com/clrelay/clrelay/cmd/clrelay/cli/top"
	"github.com/clrelay/clrelay/cmd/clrelay/cli/trace"
	"github.com/clrelay/clrelay/cmd/clrelay/cli/trial"
	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config"
)

// App is what the commands use of the process.
type App struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	// Terminal tells whether a human can be asked: stdin and stderr are a
	// terminal.
	Terminal func() bool
	Now      func() time.Time
	Version  string

	cmdline cmdline.Console
	where   where
}

// screen is stdout where it is a terminal, and nil elsewhere.
func (a *App) screen() *os.File {
	if f, ok := a.Stdout.(*os.File); ok && a.Terminal() && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// console is what commands print with; the tree must be built.
func (a *App) console() *cmdline.Console { return &a.cmdline }

// NewRoot builds the tree. The caller adds further commands and gives it to
// Execute.
func NewRoot(a *App) *cobra.Command {
	a.cmdline = cmdline.Console{Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr, Terminal: a.Terminal, Now: a.Now}
	root := &cobra.Command{
		Use:   "clrelay",
		Short: "A mail relay that keeps its word",
		Long: `clrelay takes mail by SMTP, keeps it safe, and delivers it or tells the sender.

"clrelay serve" is the relay; the other commands look at a running one, change
what is in its queue, or check files. They reach it through the socket
admin.sock in its data_dir, as root or as the user that it runs as, or a node
of a cluster over the network with the certificate of an operator: --addr and
--tls-dir. Any node answers for the whole cluster.

Where the relay is: --addr, --socket or --config, one of them; without these
CLRELAY_ADDR, then CLRELAY_SOCKET, then the data_dir that
/etc/clrelay/node.yaml names.

Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 unreachable (a retry is
safe), 5 denied, 6 conflict or guard refused, 7 partly done, 8 findings,
78 bad configuration, 130 interrupted.`,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if f := a.cmdline.Format; (f == trace.Raw || f == suppress.CSV) && cmd.Annotations[f] != "" {
				return nil
			}
			if err := cmdline.CheckFormat(a.cmdline.Format); err != nil {
				return &cmdline.UsageError{Command: cmd.CommandPath(), Err: err}
			}
			return nil
		},
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	a.flags(root)
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.AddCommand(a.versionCommand(), a.configCommand(), a.certCommand(), a.healthcheckCommand())
	root.AddCommand(cluster.Commands(a.console(), a.with)...)
	root.AddCommand(queue.Commands(a.console(), a.with)...)
	root.AddCommand(jobs.Commands(a.console(), a.with)...)
	root.AddCommand(limits.Commands(a.console(), a.with)...)
	root.AddCommand(access.Commands(a.console(), a.with)...)
	root.AddCommand(trace.Commands(a.console(), a.with)...)
	root.AddCommand(suppress.Commands(a.console(), a.with))
	for _, c := range root.Commands() {
		if c.Name() == "message" {
			c.AddCommand(trace.MessageCommands(a.console(), a.with)...)
		}
	}
	root.AddCommand(trial.Commands(a.console(), a.with), doctor.Command(a.console(), a.with), top.Command(a.console(), a.with, a.screen), debug.Commands(a.console(), a.with), manual.Command(a.console()))
	return root
}

// Execute runs the command that args name and returns the exit code.
func Execute(ctx context.Context, a *App, root *cobra.Command, args []string) int {
	prepare(root)
	complete.Attach(root, a.with)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	code := exitCode(err)
	if ctx.Err() != nil {
		code = ExitInterrupted
	}
	var (
		usage *cmdline.UsageError
		wrong config.Errors
	)
	if errors.As(err, &wrong) {
		a.console().Talk("%v", err) // each error begins with its file and line
	} else {
		a.console().Talk("error: %v", err)
	}
	if errors.As(err, &usage) && usage.Command != "" {
		a.console().Talk("See: %s --help", usage.Command)
	}
	return code
}

// prepare makes every mistake on the command line a usage error: cobra itself
// tells them apart from failures only by their text.
func prepare(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &cmdline.UsageError{Command: c.CommandPath(), Err: err}
	})
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = unknownCommand
		cmd.DisableFlagsInUseLine = true
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return &cmdline.UsageError{Command: c.CommandPath(), Err: err}
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		prepare(c)
	}
}

// unknownCommand is what a command does that only groups others.
func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		c.SetOut(c.ErrOrStderr())
		if err := c.Help(); err != nil {
			return err
		}
		return &cmdline.UsageError{Err: errors.New("a command is missing")}
	}
	text := fmt.Sprintf("unknown command %q for %s", args[0], c.CommandPath())
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		text += fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	}
	return &cmdline.UsageError{Command: c.CommandPath(), Err: errors.New(text)}
}
