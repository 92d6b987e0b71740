package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/clrelay/clrelay/internal/cmdline"
)

// SpoolTools read the spool of a relay that is not running. They change
// nothing in it.
type SpoolTools struct {
	// Check reads all of the spool in the data_dir dir.
	Check func(ctx context.Context, dir string) (SpoolReport, error)
	// Export writes each unfinished message with its envelope into the folder
	// out, which it makes.
	Export func(ctx context.Context, dir, out string) (SpoolReport, error)
}

// SpoolReport is what was found in a spool. Its JSON is what the commands
// print.
type SpoolReport struct {
	Dir        string        `json:"dir"`
	Files      int64         `json:"files"`
	Messages   int64         `json:"messages"`   // unfinished
	Recipients int64         `json:"recipients"` // of them, not done
	Bytes      int64         `json:"bytes"`      // of those messages
	Damage     []SpoolDamage `json:"damage"`
}

// SpoolDamage is one damaged place.
type SpoolDamage struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	ID     string `json:"id"` // of the message that it hit, empty where unknown
	What   string `json:"what"`
}

// SpoolCommand is the command that looks into the files of a spool.
func (a *App) SpoolCommand(t SpoolTools) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "spool",
		Short: "Look into the files of a relay that is not running",
		Long: `Look into the files of a relay that is not running. DIR is its data_dir. Nothing
in it is changed, so a copy on a read-only medium will do.`,
	}
	check := &cobra.Command{
		Use:   "check DIR",
		Short: "Read every record and report damage",
		Long: `Read every record of the spool in DIR and report damage by file and offset. With
damage the exit code is 8.`,
		Args: cmdline.Exactly[*cobra.Command](1, "it takes one DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := t.Check(cmd.Context(), args[0])
			if err == nil {
				err = a.printSpool("found", report)
			}
			if err == nil && len(report.Damage) > 0 {
				return cmdline.Exitf(cmdline.ExitFindings, "the spool is damaged in %s", cmdline.Plural(int64(len(report.Damage)), "place"))
			}
			return missing(err)
		},
	}
	export := &cobra.Command{
		Use:   "export DIR OUT",
		Short: "Write the messages of a spool as files",
		Long: `Write each unfinished message of the spool in DIR into the folder OUT: its content
as ID.eml and its envelope beside it. OUT is made and must not exist, or be
empty. With damage in the spool the exit code is 7, and what can be read is
written.`,
		Args: cmdline.Exactly[*cobra.Command](2, "it takes DIR and OUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := t.Export(cmd.Context(), args[0], args[1])
			if err == nil {
				err = a.printSpool("exported", report)
			}
			if err == nil && len(report.Damage) > 0 {
				return cmdline.Exitf(cmdline.ExitPartly, "the spool is damaged in %s: what could be read was written", cmdline.Plural(int64(len(report.Damage)), "place"))
			}
			return missing(err)
		},
	}
	cmd.AddCommand(check, export)
	return cmd
}

func (a *App) printSpool(done string, r SpoolReport) error {
	if r.Damage == nil {
		r.Damage = []SpoolDamage{} // "[]" in JSON
	}
	return a.console().Object(r, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s %s to %s (%s) in %s\n", done, cmdline.Plural(r.Messages, "message"), cmdline.Plural(r.Recipients, "recipient"),
			cmdline.Size(r.Bytes), cmdline.Plural(r.Files, "file"))
		for _, d := range r.Damage {
			if err != nil {
				return err
			}
			hit := ""
			if d.ID != "" {
				hit = " (message " + d.ID + ")"
			}
			_, err = fmt.Fprintf(w, "%s: offset %d: %s%s\n", d.File, d.Offset, cmdline.Cell(d.What, 200), hit)
		}
		return err
	})
}

// missing makes a folder that is not there exit code 3.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) && exitCode(err) == cmdline.ExitFailed {
		return &cmdline.ExitError{Code: cmdline.ExitNotFound, Err: err}
	}
	return err
}
