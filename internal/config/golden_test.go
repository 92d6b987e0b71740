package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/internal/config/strict"
)

// The files testdata/*.txt hold cases: a line "=== NAME", a configuration, a
// line "-----", and what loading it says: errors, or warnings, or "ok". $DIR is
// the folder of the configuration, which holds the files of fixtures.
// With -update what is said is written there: read the diff.
func TestMessages(t *testing.T) {
	for _, file := range []string{"node.yaml", "cluster.yaml"} {
		t.Run(file, func(t *testing.T) {
			name := filepath.Join("testdata", strings.TrimSuffix(file, ".yaml")+".txt")
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			dir := fixtures(t)
			var out strings.Builder
			for _, c := range strings.Split(string(text), "=== ")[1:] {
				title, rest, _ := strings.Cut(c, "\n")
				input, want, found := strings.Cut("\n"+rest, "\n-----\n")
				if !found {
					t.Fatalf("%s: case %q has no line -----", name, title)
				}
				input = strings.TrimPrefix(input, "\n")
				got := say(file, dir, unescape(input))
				if got != strings.TrimSpace(want) && !*update {
					t.Errorf("%s, case %q:\n%s\n--- got\n%s\n--- want\n%s", name, title, input, got, strings.TrimSpace(want))
				}
				out.WriteString("=== " + title + "\n" + input + "\n-----\n" + got + "\n\n")
			}
			if *update {
				if err := os.WriteFile(name, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// unescape lets a case hold octets that no editor keeps.
func unescape(s string) string {
	return strings.NewReplacer(`\xff`, "\xff", `\x00`, "\x00", `\t`, "\t", `\r`, "\r", `\uFEFF`, "\uFEFF", `\u2028`, "\u2028").Replace(s)
}

func say(file, dir, text string) string {
	f := strict.Parse(file, dir, []byte(text))
	var warnings Errors
	var err error
	if file == "node.yaml" {
		var n *Node
		if n, err = readNode(check{f, true}); err == nil {
			warnings = n.Warnings
		}
	} else {
		var c *Cluster
		if c, err = readCluster(check{f, true}, nil); err == nil {
			warnings = c.Warnings
		}
	}
	var lines []string
	switch {
	case err != nil:
		lines = strings.Split(err.Error(), "\n")
	case len(warnings) > 0:
		lines = strings.Split("warning: "+warnings.Error(), "\n")
	default:
		return "ok"
	}
	for i := range lines {
		lines[i] = strings.TrimRight(strings.ReplaceAll(lines[i], dir, "$DIR"), " ")
	}
	return strings.Join(lines, "\n")
}
