package main

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
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

The log of messages goes to stdout, one line an event; everything else to stderr.

On a machine that is to join a cluster and has no certificate in its tls_dir,
--join or --join-file names a token of "clrelay cluster join-token create" and a
node that can sign. It checks that this node is of the cluster that the token is
for, gets ca.crt, node.crt and node.key, and starts. With a certificate there the
token is not looked at. Exit codes of the joining: 4 nobody answers, 5 the token
is not valid, or it is another cluster, 6 the cluster refuses.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := lenient(); err != nil {
				fmt.Fprintln(o.Stderr, "clrelay: it goes on as it is:", err)
			}
			return serve.Run(cmd.Context(), o)
		},
	}
	c.Flags().StringVar(&o.Config, "config", "/etc/clrelay/node.yaml", "path of node.yaml")
	c.Flags().StringVar(&o.Join, "join", "", "`TOKEN@HOST:PORT`: get the certificate from that node of a cluster first")
	c.Flags().StringVar(&o.JoinFile, "join-file", "", "`file` that holds TOKEN@HOST:PORT, so that it is not in the list of processes")
	return c
}

func demoCommand() *cobra.Command {
	o := demo.Options{In: os.Stdin, Out: os.Stdout}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show a cluster at work: three relays to kill, with load, an inbox and a ledger",
		Long: `Starts three relays that form a cluster, a front that spreads clients over them,
a DNS server that knows a few invented domains and an inbox that plays their
mail servers, all on loopback and in a temporary folder, sends a stream of mail,
and keeps the books: what the relays accepted is delivered, bounced or queued,
and nothing came twice that they did not count. Keys kill, pause, cut off, bring
back, drain and add nodes. It needs neither root nor the network, and its exit
code is that of the ledger: 0 when nothing was lost.

With --script the keys are pressed by a script, which also checks that what it
waits for comes about: ` + strings.Join(demo.Scripts(), ", ") + `.
With --nodes 1 one relay runs alone.`,
		Example: "clrelay demo --script failover --plain",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkDemo(cmd, &o); err != nil {
				return &cli.ExitError{Code: cli.ExitUsage, Err: err}
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
	c.Flags().IntVar(&o.Nodes, "nodes", 3, "how many `relays`: 3, or 1 that runs alone")
	c.Flags().StringVar(&o.Script, "script", "", "play a `story` instead of waiting for keys")
	c.Flags().DurationVar(&o.For, "for", 0, "end after this time, such as 20s; a script that is not over by then has failed (default: at Ctrl-C)")
	c.Flags().BoolVar(&o.Plain, "plain", false, "lines instead of a live screen")
	c.Flags().Float64Var(&o.Rate, "rate", 25, "messages a second")
	return c
}

// checkDemo finds what the demo cannot do.
func checkDemo(cmd *cobra.Command, o *demo.Options) error {
	switch {
	case !(o.Rate > 0 && o.Rate <= 1000): // NaN is neither
		return fmt.Errorf("--rate %v: from more than 0 to 1000 messages a second", o.Rate)
	case cmd.Flags().Changed("for") && o.For <= 0:
		return fmt.Errorf("--for %v: a time above 0; leave it out to go on until Ctrl-C", o.For)
	case o.Nodes != 1 && o.Nodes != 3:
		return fmt.Errorf("--nodes %d: 3, or 1 for a relay that runs alone", o.Nodes)
	case o.Script != "" && !slices.Contains(demo.Scripts(), o.Script):
		return fmt.Errorf("--script %s: there are %s", o.Script, strings.Join(demo.Scripts(), ", "))
	case o.Script != "" && o.Nodes == 1:
		return fmt.Errorf("--script %s needs --nodes 3", o.Script)
	}
	return nil
}
