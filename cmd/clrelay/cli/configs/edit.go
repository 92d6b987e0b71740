package configs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config"
)

func (a *verbs) editCommand() *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use:   "edit",
		Short: "Change the configuration in an editor",
		Long: `Open the newest version in $VISUAL, else $EDITOR, else vi, and apply what is
saved, as "config apply --if-version" does: when somebody else was faster nothing
is changed (6). A text with an error is not applied; on a terminal it can be
edited again. Whenever the text is not applied it stays in a file, which is
named. Nothing happens when it is saved as it was.`,
		Args: cmdline.AtMost[*cobra.Command](0, "it takes nothing"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.edit(cmd.Context(), &c) },
	}
	c.flags(cmd)
	return cmd
}

// edit lets the newest version be changed, and applies the outcome. It is not
// connected while somebody edits.
func (a *verbs) edit(ctx context.Context, c *change) error {
	err := a.with(func(conn grpc.ClientConnInterface) (err error) {
		c.base, err = newest(ctx, conn)
		return err
	})
	if err != nil {
		return err
	}
	file, err := draft(textOf(c.base))
	if err != nil {
		return fmt.Errorf("a file to edit: %w", err)
	}
	for {
		if err := a.editor(file); err != nil {
			return kept(file, c, err)
		}
		if c.text, err = os.ReadFile(file); err != nil {
			return fmt.Errorf("the edited text: %w", err)
		}
		if bytes.Equal(c.text, textOf(c.base)) {
			a.Talk("nothing was edited: version %d stays", c.base.GetVersion())
			return os.Remove(file)
		}
		err := a.applyEdited(ctx, file, c)
		switch {
		case errors.Is(err, errSame):
			a.Talk("no setting differs: version %d stays; your text is in %s", c.base.GetVersion(), file)
			return nil
		case err == nil || codeOf(err) == cmdline.ExitPartly: // it is applied
			return errors.Join(err, os.Remove(file))
		case codeOf(err) != cmdline.ExitConfig || !a.again(err):
			return kept(file, c, err)
		}
	}
}

// errSame is the end of an edit that changed no setting.
var errSame = errors.New("no setting differs")

func (a *verbs) applyEdited(ctx context.Context, file string, c *change) error {
	if err := check(file, c.text); err != nil {
		return err
	}
	list, err := compare(c.base.GetText(), c.text)
	switch {
	case err != nil:
		return err
	case len(list) == 0:
		return errSame
	}
	return a.with(func(conn grpc.ClientConnInterface) error { return a.apply(ctx, conn, c) })
}

// draft writes a text to a new file that nobody else can read.
func draft(text []byte) (file string, err error) {
	f, err := os.CreateTemp("", "clrelay-config-*.yaml")
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	return f.Name(), errors.Join(err, f.Close())
}

// editor opens a file in the editor and waits for its end. The variable may
// hold arguments, as is the custom.
func (a *verbs) editor(file string) error {
	name := "vi"
	for _, v := range []string{"EDITOR", "VISUAL"} {
		if s := strings.TrimSpace(a.getenv(v)); s != "" {
			name = s
		}
	}
	cmd := exec.Command("sh", "-c", name+` "$1"`, "sh", file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.Stdin, a.Stderr, a.Stderr // stdout is for data
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the editor (%s): %w", name, err)
	}
	return nil
}

// again shows what is wrong and asks whether it is to be mended.
func (a *verbs) again(wrong error) bool {
	if !a.Terminal() {
		return false
	}
	a.Talk("%v", wrong)
	answer, err := a.Ask("Edit it again? [Y/n]")
	return err == nil && (answer == "" || strings.HasPrefix(strings.ToLower(answer), "y"))
}

// kept tells where a text is that was not applied. One that is as it was is not
// worth it.
func kept(file string, c *change, why error) error {
	text, err := os.ReadFile(file)
	if err == nil && bytes.Equal(text, textOf(c.base)) {
		return errors.Join(why, os.Remove(file))
	}
	return &keptError{file, why}
}

// keptError is an error after which a text is left in a file.
type keptError struct {
	file string
	why  error
}

// Error says why, and where the text is.
func (e *keptError) Error() string {
	return fmt.Sprintf("%v\nYour text was not applied; it is in %s", e.why, e.file)
}

// Unwrap gives the reason.
func (e *keptError) Unwrap() error { return e.why }

// codeOf gives the exit code of a failure as far as it matters here.
func codeOf(err error) int {
	var (
		exit  *cmdline.ExitError
		wrong config.Errors
	)
	switch {
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &wrong):
		return cmdline.ExitConfig
	}
	return cmdline.ExitFailed
}
