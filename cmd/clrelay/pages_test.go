package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/clrelay/clrelay/cmd/clrelay/cli"
	"github.com/clrelay/clrelay/docs"
)

const pagesDir = "../../docs/"

// byHand are the pages that tell people what to type.
func byHand(t *testing.T) []string {
	t.Helper()
	runbooks, err := filepath.Glob(pagesDir + "runbooks/*.md")
	if err != nil || len(runbooks) < 11 {
		t.Fatalf("runbooks: %d pages, %v", len(runbooks), err)
	}
	return append([]string{pagesDir + "tasks.md", pagesDir + "card.md", pagesDir + "operations.md", pagesDir + "sources.md", pagesDir + "failures.md", pagesDir + "monitoring.md", "../../README.md"}, runbooks...)
}

// said is a command as a page has it.
type said struct {
	line  int
	text  string
	whole bool // as it is to be typed: what it needs beside flags is there, too
}

// commandsIn finds the commands of a page: in lines of code and in code within
// text.
func commandsIn(page string) (out []said) {
	code := regexp.MustCompile("`([^`]+)`")
	fenced := false
	for i, l := range strings.Split(page, "\n") {
		trimmed := strings.TrimSpace(l)
		switch {
		case strings.HasPrefix(trimmed, "```"):
			fenced = !fenced
		case fenced:
			text := strings.TrimPrefix(trimmed, "$ ")
			if isCommand(text) {
				out = append(out, said{i + 1, text, true})
			}
		case strings.HasPrefix(l, "    clrelay "):
			out = append(out, said{i + 1, trimmed, true})
		default:
			for _, m := range code.FindAllStringSubmatch(l, -1) {
				if text := strings.ReplaceAll(m[1], `\|`, "|"); isCommand(text) {
					out = append(out, said{i + 1, text, false})
				}
			}
		}
	}
	return out
}

func isCommand(text string) bool { return strings.HasPrefix(text, "clrelay ") }

// words splits a line as a shell would, up to what is for the shell or another
// program.
func words(line string) ([]string, error) {
	var out []string
	var w strings.Builder
	in, quote := false, rune(0)
	end := func() {
		if in {
			out = append(out, w.String())
		}
		w.Reset()
		in = false
	}
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			w.WriteRune(c)
		case c == '"' || c == '\'':
			quote, in = c, true
		case c == '|' || c == '>' || c == ';' || c == '&' || c == '#' && !in:
			end()
			return out, nil
		case c == ' ':
			end()
		default:
			in = true
			w.WriteRune(c)
		}
	}
	end()
	if quote != 0 {
		return nil, fmt.Errorf("a quote is open")
	}
	return out, nil
}

// parses tells what is wrong with a command, by the real tree of commands.
func parses(t *testing.T, s said) error {
	t.Helper()
	app := &cli.App{Stdout: os.Stdout, Stderr: os.Stderr, Getenv: func(string) string { return "" }, Now: time.Now, Terminal: func() bool { return false }}
	args, err := words(s.text)
	if err != nil {
		return err
	}
	cmd, rest, err := newRootCommand(app).Find(args[1:])
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	rest = cmd.Flags().Args()
	switch {
	case isGroup(cmd) && len(rest) > 0:
		return fmt.Errorf("%s has no command %q", cmd.CommandPath(), rest[0])
	case isGroup(cmd) && s.whole:
		return fmt.Errorf("%s is no command by itself", cmd.CommandPath())
	case s.whole:
		return cmd.ValidateArgs(rest)
	}
	return nil
}

// isGroup tells whether a command only holds others.
func isGroup(cmd *cobra.Command) bool {
	return cmd.HasSubCommands() && !strings.ContainsAny(strings.ReplaceAll(cmd.Use, "[flags]", ""), " ")
}

// What a page tells people to type is there.
func TestPagesNameRealCommands(t *testing.T) {
	for _, name := range byHand(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		list := commandsIn(string(text))
		if len(list) < 4 && !strings.HasSuffix(name, "README.md") {
			t.Errorf("%s: only %d commands", name, len(list))
		}
		for _, s := range list {
			if err := parses(t, s); err != nil {
				t.Errorf("%s:%d: %s: %v", name, s.line, s.text, err)
			}
		}
	}
}

// The test above sees what it is to see.
func TestWrongCommandsAreSeen(t *testing.T) {
	page := "text `clrelay queue flush`, `clrelay queue list --domian example.org` and `clrelay flush`\n" +
		"| `clrelay queue list \\| wc` | `clrelay node` |\n" +
		"```\n$ clrelay message show\n$ clrelay queue drop --from 'a b' --reason \"x y\" --yes | cat\nqueue clrelay nonsense\n$ clrelay queue\n```\n\n    clrelay trace\n"
	var bad []string
	list := commandsIn(page)
	for _, s := range list {
		if parses(t, s) != nil {
			bad = append(bad, s.text)
		}
	}
	want := []string{"clrelay queue flush", "clrelay queue list --domian example.org", "clrelay flush", "clrelay message show", "clrelay queue", "clrelay trace"}
	if len(list) != 9 || !slices.Equal(bad, want) {
		t.Errorf("of %d commands these are bad: %q, want %q", len(list), bad, want)
	}
}

// A page names pages and headings that are there.
func TestPagesNameRealPages(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]+))?\)`)
	named := regexp.MustCompile(`docs/([\w/.-]+\.md)(?:,? "([^"]+)")?`)
	heading := regexp.MustCompile(`(?m)^#+ (.+)$`)
	anchor := func(h string) string {
		return strings.ReplaceAll(regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(h), ""), " ", "-")
	}
	check := func(at, file, want string, form func(string) string) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%s: %v", at, err)
			return
		}
		for _, m := range heading.FindAllStringSubmatch(string(text), -1) {
			if want == "" || form(m[1]) == want {
				return
			}
		}
		t.Errorf("%s: %s has no heading %q", at, file, want)
	}
	for _, name := range append(byHand(t), pagesDir+"operations.md", pagesDir+"failures.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range strings.Split(string(text), "\n") {
			at := fmt.Sprintf("%s:%d", name, i+1)
			for _, m := range link.FindAllStringSubmatch(l, -1) {
				file := name
				if m[1] != "" {
					file = filepath.Join(filepath.Dir(name), m[1])
				}
				check(at, file, m[2], anchor)
			}
			for _, m := range named.FindAllStringSubmatch(l, -1) {
				check(at, pagesDir+m[1], m[2], func(h string) string { return h })
			}
		}
	}
}

// Each alert names a page that the program can show.
func TestAlertsNameRealPages(t *testing.T) {
	text, err := os.ReadFile("../../deploy/prometheus/clrelay.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Load(text, &rules); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			topic, ok := strings.CutPrefix(r.Annotations["runbook"], "clrelay docs ")
			if !ok {
				t.Errorf("%s: runbook %q is no page", r.Alert, r.Annotations["runbook"])
				continue
			}
			if _, err := docs.Pages.ReadFile(topic + ".md"); err != nil {
				t.Errorf("%s: %v", r.Alert, err)
			}
		}
	}
	if n == 0 {
		t.Error("no alerts")
	}
}
