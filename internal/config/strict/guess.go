package strict

import (
	"fmt"
	"strings"
)

// maxGuessed bounds the words that are compared: nobody mistypes longer ones
// into a key.
const maxGuessed = 64

// Guess returns the candidate nearest to word, or "" when none is near enough
// to be what was meant.
func Guess(word string, candidates []string) string {
	w := fold(word)
	if len(w) > maxGuessed {
		return ""
	}
	best, bestDist := "", len(w)/3+2
	for _, c := range candidates {
		f := fold(c)
		d := distance(w, f)
		if len(w) >= 3 && (strings.HasPrefix(f, w) || strings.HasPrefix(w, f) && len(f) >= 3) {
			d = min(d, 1)
		}
		if d < bestDist && d < max(len(f), 2) {
			best, bestDist = c, d
		}
	}
	return best
}

// fold drops what people get wrong without noticing.
func fold(s string) string {
	return strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToLower(s))
}

// distance is the number of letters put in, left out, changed or swapped with
// their neighbour (optimal string alignment).
func distance(a, b string) int {
	if len(a) > maxGuessed || len(b) > maxGuessed {
		return max(len(a), len(b))
	}
	var prev2, prev, cur [maxGuessed + 1]int
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev = prev, cur
	}
	return prev[len(b)]
}

// DidYouMean is the tail of a message, or "".
func DidYouMean(word string, candidates []string) string {
	if g := Guess(word, candidates); g != "" {
		return fmt.Sprintf("; did you mean %q?", g)
	}
	return ""
}

// OneOf lists words for a message: "a, b or c".
func OneOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
