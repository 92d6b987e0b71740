package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clrelay/clrelay/cmd/clrelay/cli/configs"
	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config"
)

func (a *App) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check and explain configuration files, and change that of a cluster"}
	cmd.AddCommand(a.validateCommand(), a.explainCommand())
	cmd.AddCommand(configs.Commands(a.console(), a.with, a.Getenv)...)
	return cmd
}

// finding is one thing that config validate has to say.
type finding struct {
	File     string `json:"file"`
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Key      string `json:"key"`
	Severity string `json:"severity"` // error or warning
	Message  string `json:"message"`
}

func (a *App) validateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "validate FILE",
		Short: "Check node.yaml or cluster.yaml",
		Long: `Check node.yaml, with the file that its cluster_config names, or cluster.yaml.
All errors are shown at once. With an error the exit code is 78, as it is with
"clrelay serve"; warnings leave it 0.`,
		Args: cmdline.Exactly[*cobra.Command](1, "it takes one FILE"),
		RunE: func(_ *cobra.Command, args []string) error { return a.validate(args[0]) },
	}
	return cmd
}

func (a *App) validate(file string) error {
	report, err := config.Validate(file)
	var wrong config.Errors
	if err != nil && !errors.As(err, &wrong) {
		return &cmdline.ExitError{Code: cmdline.ExitConfig, Err: err}
	}
	if a.cmdline.Format != cmdline.FormatTable {
		if err := a.printFindings(wrong, report.Warnings); err != nil {
			return err
		}
		if len(wrong) > 0 {
			return cmdline.Exitf(cmdline.ExitConfig, "%s", cmdline.Plural(int64(len(wrong)), "error"))
		}
		return nil
	}
	if len(wrong) > 0 {
		return wrong // all of them, each with its line and a caret
	}
	for _, w := range report.Warnings {
		a.console().Talk("warning: %v", w)
	}
	for _, f := range report.Files {
		if _, err := fmt.Fprintf(a.Stdout, "%s: ok\n", f); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) printFindings(wrong, warnings config.Errors) error {
	out := a.console().List()
	for _, part := range []struct {
		severity string
		errs     config.Errors
	}{{"error", wrong}, {"warning", warnings}} {
		for _, e := range part.errs {
			if err := out.Row(finding{e.File, e.Line, e.Col, e.Key, part.severity, e.Msg}); err != nil {
				return err
			}
		}
	}
	return out.End()
}

func (a *App) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain [KEY]",
		Short: "Explain a setting, or list all of them",
		Example: `  clrelay config explain receive.max_size
  clrelay config explain senders`,
		Args:              cmdline.AtMost[*cobra.Command](1, "one KEY at a time"),
		ValidArgsFunction: cobra.FixedCompletions(config.Keys(), cobra.ShellCompDirectiveNoFileComp),
		RunE: func(_ *cobra.Command, args []string) error {
			text := strings.Join(config.Keys(), "\n")
			if len(args) == 1 {
				var err error
				if text, err = config.Explain(args[0]); err != nil {
					return &cmdline.ExitError{Code: cmdline.ExitNotFound, Err: err}
				}
			}
			_, err := io.WriteString(a.Stdout, strings.TrimRight(text, "\n")+"\n")
			return err
		},
	}
}
