package system

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestDemo plays the demo's stories: its exit code is the ledger's verdict, and
// what it waits for comes about.
func TestDemo(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"failover": {"--script", "failover", "--for", "60s"},
		"drain":    {"--script", "drain", "--for", "60s"},
		"one node": {"--nodes", "1", "--for", "3s"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, binary(t), append([]string{"demo", "--plain"}, args...)...)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if !strings.Contains(string(out), "\nPASS  accepted ") {
				t.Errorf("no verdict\n%s", out)
			}
		})
	}
}
