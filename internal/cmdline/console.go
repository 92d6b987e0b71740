// Package cmdline is what all commands of clrelay have in common: where they
// read and print, in which format, how they write numbers for humans, and the
// errors and codes with which they end. It knows nothing of what they do.
//
// Data goes to stdout and talk to stderr. Every format but the table is
// stable.
package cmdline

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// Console is what a command uses of its process.
type Console struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Terminal tells whether a human can be asked: stdin and stderr are a
	// terminal.
	Terminal func() bool
	Now      func() time.Time
	Format   string // one of the formats of -o
}

// Talk says something to a human. It is lost when nobody listens.
func (c *Console) Talk(format string, args ...any) {
	_, _ = fmt.Fprintf(c.Stderr, format+"\n", args...)
}

// Ask asks a human and returns the line that is typed, trimmed.
func (c *Console) Ask(question string) (string, error) {
	_, _ = io.WriteString(c.Stderr, question+" ") // as Talk
	answer, err := bufio.NewReader(c.Stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	return strings.TrimSpace(answer), nil
}

// Stamp gives a time as JSON shows it, null when there is none.
func Stamp(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime().UTC().Truncate(time.Millisecond)
	return &at
}

// Ago tells how long ago a time was.
func (c *Console) Ago(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return Span(c.Now().Sub(t.AsTime()))
}

// AtMost lets n arguments pass. C is the type of a command.
func AtMost[C any](n int, what string) func(C, []string) error {
	return func(_ C, args []string) error {
		if len(args) > n {
			return fmt.Errorf("%q is too much: %s", args[n], what)
		}
		return nil
	}
}

// Exactly lets n arguments pass, no more and no fewer. C is the type of a
// command.
func Exactly[C any](n int, what string) func(C, []string) error {
	return func(_ C, args []string) error {
		if len(args) != n {
			return errors.New(what)
		}
		return nil
	}
}
