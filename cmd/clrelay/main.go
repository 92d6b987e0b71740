// Command clrelay is the relay and everything an operator needs around it:
// one binary. This package is the only place that wires the parts together.
package main

import (
	"context"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clrelay/clrelay/cmd/clrelay/alike"
	"github.com/clrelay/clrelay/cmd/clrelay/cli"
	"github.com/clrelay/clrelay/cmd/clrelay/rescue"
	"github.com/clrelay/clrelay/internal/cmdline"
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	app := &cli.App{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Now: time.Now, Version: version,
		Terminal: func() bool {
			return term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd()))
		},
	}
	context.AfterFunc(ctx, stop) // the second Ctrl-C ends the process
	if alike.Is(os.Args[0]) {
		code := alike.Run(ctx, mailProgram(app), os.Args[0], os.Args[1:])
		stop()
		os.Exit(code)
	}
	code := cli.Execute(ctx, app, newRootCommand(app), os.Args[1:])
	stop()
	os.Exit(code)
}

// mailProgram is what the look-alikes of other mail systems use.
func mailProgram(app *cli.App) *alike.Process {
	return &alike.Process{
		Stdin: app.Stdin, Stdout: app.Stdout, Stderr: app.Stderr, Getenv: app.Getenv, Now: app.Now,
		With: app.With, Config: cli.DefaultConfig, User: alike.CurrentUser,
	}
}

// newRootCommand builds the whole tree.
func newRootCommand(app *cli.App) *cobra.Command {
	root := cli.NewRoot(app)
	root.AddCommand(serveCommand(), demoCommand(), app.SpoolCommand(spoolTools()))
	for _, c := range root.Commands() {
		if c.Name() == "cluster" {
			c.AddCommand(rescue.Commands(cmdline.Console{Stdin: app.Stdin, Stdout: app.Stdout, Stderr: app.Stderr, Terminal: app.Terminal, Now: app.Now}, app.With)...)
		}
	}
	return root
}
