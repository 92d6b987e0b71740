package picks

import "testing"

func FuzzMatch(f *testing.F) {
	f.Add("a*b?c", "axxbyc")
	f.Add("**", "")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern)*len(text) > 10_000 {
			return
		}
		if got, want := match(pattern, text), naive(pattern, text); got != want {
			t.Errorf("match(%q, %q) = %v", pattern, text, got)
		}
	})
}

// naive is match by dynamic programming.
func naive(pattern, text string) bool {
	row := make([]bool, len(text)+1)
	row[0] = true
	for _, p := range []byte(pattern) {
		next := make([]bool, len(text)+1)
		next[0] = p == '*' && row[0]
		for i := range len(text) {
			if p == '*' {
				next[i+1] = row[i+1] || next[i]
			} else {
				next[i+1] = row[i] && (p == '?' || p == text[i])
			}
		}
		row = next
	}
	return row[len(text)]
}
