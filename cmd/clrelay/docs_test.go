package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/clrelay/clrelay/cmd/clrelay/cli"
)

var update = flag.Bool("update", false, "write docs/cli.md anew")

const page = "../../docs/cli.md"

// docs/cli.md is made from the tree of commands.
func TestDocsAreUpToDate(t *testing.T) {
	app := &cli.App{Stdout: os.Stdout, Stderr: os.Stderr, Getenv: func(string) string { return "" }, Now: time.Now, Terminal: func() bool { return false }}
	var b strings.Builder
	b.WriteString("# Commands\n\nMade from the commands themselves by `go test ./cmd/clrelay -update`; do not edit.\n")
	render(&b, newRootCommand(app))
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != b.String() {
		t.Errorf("docs/cli.md is not what the commands say: run go test ./cmd/clrelay -update")
	}
}

func render(b *strings.Builder, c *cobra.Command) {
	if c.Hidden {
		return
	}
	fmt.Fprintf(b, "\n## %s\n\n", c.CommandPath())
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	b.WriteString(strings.NewReplacer("<", "\\<", "*", "\\*").Replace(text) + "\n")
	if !c.HasSubCommands() {
		fmt.Fprintf(b, "\n    %s\n", c.UseLine())
	}
	if c.Example != "" {
		fmt.Fprintf(b, "\nExample:\n\n%s\n", "  "+strings.ReplaceAll(c.Example, "\n", "\n  "))
	}
	var rows []string
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		flag := "--" + f.Name
		if f.Shorthand != "" {
			flag = "-" + f.Shorthand + ", " + flag
		}
		if name != "" {
			flag += " " + strings.TrimSuffix(name, "Array")
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s |", flag, strings.NewReplacer("<", "\\<", "|", "\\|", "*", "\\*").Replace(usage)))
	})
	if len(rows) > 0 {
		fmt.Fprintf(b, "\n| flag | meaning |\n| --- | --- |\n%s\n", strings.Join(rows, "\n"))
	}
	for _, sub := range c.Commands() {
		render(b, sub)
	}
}
