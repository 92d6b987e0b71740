// Package manual is the command docs: the manual, offline, and the man pages,
// which are made from the commands themselves.
package manual

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/clrelay/clrelay/docs"
	"github.com/clrelay/clrelay/internal/cmdline"
)

// Command makes the command docs.
func Command(c *cmdline.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "docs [TOPIC]",
		Short: "Read the manual, offline",
		Long: `Prints a page of the manual, as it belongs to this version. Without a topic it
lists the pages.`,
		Example: "  clrelay docs operations | less",
		Args:    cmdline.AtMost[*cobra.Command](1, "one topic at a time"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return topics(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return list(c)
			}
			text, err := docs.Pages.ReadFile(args[0] + ".md")
			if err != nil {
				return cmdline.Exitf(cmdline.ExitNotFound, "no page %q: there are %s", args[0], strings.Join(topics(), ", "))
			}
			_, err = c.Stdout.Write(text)
			return err
		},
	}
	cmd.AddCommand(manCommand())
	return cmd
}

// topics are the names of the pages.
func topics() (out []string) {
	for _, pattern := range []string{"*.md", "runbooks/*.md"} {
		names, _ := fs.Glob(docs.Pages, pattern) // the patterns are well formed
		for _, n := range names {
			out = append(out, strings.TrimSuffix(n, ".md"))
		}
	}
	return out
}

// page is what docs lists.
type page struct {
	Topic string `json:"topic"`
	Title string `json:"title"`
}

func list(c *cmdline.Console) error {
	out := c.List("TOPIC", "ABOUT")
	for _, t := range topics() {
		text, err := docs.Pages.ReadFile(t + ".md")
		if err != nil {
			return err
		}
		title, _, _ := strings.Cut(strings.TrimPrefix(string(text), "# "), "\n")
		if err := out.Row(page{t, title}, t, title); err != nil {
			return err
		}
	}
	return out.End()
}

func manCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "man --dir DIR",
		Short: "Write the man pages into a folder",
		Args:  cmdline.AtMost[*cobra.Command](0, "the folder is named with --dir"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return cmdline.Usagef(cmd.CommandPath(), "--dir is needed: the folder to write into")
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			at := epoch(os.Getenv("SOURCE_DATE_EPOCH"))
			return doc.GenManTree(root, &doc.GenManHeader{Section: "8", Source: "clrelay", Manual: "clrelay", Date: &at}, dir)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the `folder`")
	return cmd
}

// epoch is the time that a build is to bear; without one it is always the same,
// so that equal builds make equal pages.
func epoch(text string) time.Time {
	var n int64
	if _, err := fmt.Fscan(io.LimitReader(strings.NewReader(text), 20), &n); err != nil {
		n = 0
	}
	return time.Unix(n, 0).UTC()
}
