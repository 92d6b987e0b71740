package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/clrelay/clrelay/cmd/clrelay/cli"
	"github.com/clrelay/clrelay/cmd/clrelay/demo"
	"github.com/clrelay/clrelay/cmd/clrelay/serve"
)

func serveCommand() *cobra.Command {
	o := serve.Options{Version: version, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Exit: os.Exit}
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the relay",
		Long: `Runs the relay until SIGTERM or SIGINT. SIGHUP reads cluster.yaml and the
certificates again; a wrong file is reported and changes nothing.

The log of messages goes to stdout, one line an event; everything else to stderr.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve.Run(cmd.Context(), o) },
	}
	c.Flags().StringVar(&o.Config, "config", "/etc/clrelay/node.yaml", "path of node.yaml")
	return c
}

func demoCommand() *cobra.Command {
	o := demo.Options{Out: os.Stdout}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show a relay at work: with load, an inbox, a DNS server and a ledger",
		Long: `Starts a relay, a DNS server that knows a few invented domains and an inbox that
plays their mail servers, all on loopback and in a temporary folder, sends a
stream of mail, and keeps the books: what the relay accepted is delivered,
bounced or queued. It needs neither root nor the network, and its exit code is
that of the ledger: 0 when nothing was lost.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case !(o.Rate > 0 && o.Rate <= 1000): // NaN is neither
				return &cli.ExitError{Code: cli.ExitUsage, Err: fmt.Errorf("--rate %v: from more than 0 to 1000 messages a second", o.Rate)}
			case cmd.Flags().Changed("for") && o.For <= 0:
				return &cli.ExitError{Code: cli.ExitUsage, Err: fmt.Errorf("--for %v: a time above 0; leave it out to go on until Ctrl-C", o.For)}
			}
			bin, err := os.Executable()
			if err != nil {
				return err
			}
			o.Binary = bin
			ctx, cancel := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer cancel()
			return demo.Run(ctx, o)
		},
	}
	c.Flags().DurationVar(&o.For, "for", 0, "end after this time, such as 20s (default: at Ctrl-C)")
	c.Flags().BoolVar(&o.Plain, "plain", false, "a line a second instead of a live screen")
	c.Flags().Float64Var(&o.Rate, "rate", 25, "messages a second")
	return c
}
