package bounce

import (
	"strings"

	"github.com/clrelay/clrelay/internal/mail"
)

// MaxText is how much of a text is looked at.
const MaxText = 2048

// Classify says what a reply means. code is the reply code, status the enhanced
// status code and text what was said, codes and all where the caller does not
// know better; each may be missing.
func Classify(code int, status mail.EnhancedCode, text string) Verdict {
	text = text[:min(len(text), MaxText)]
	if code == 0 || vague(status) {
		f := codes(text)
		if code == 0 {
			code = f.code
		}
		if e := f.status; e != (mail.EnhancedCode{}) && (status == mail.EnhancedCode{} || detail(e) > detail(status) && e[0] == status[0]) {
			status = e
		}
	}
	if status == (mail.EnhancedCode{}) && code >= 200 && code < 600 && code/100 != 3 {
		status = mail.EnhancedCode{code / 100, 0, 0}
	}
	v := Verdict{Status: status}
	v.Class = classOf(code, status, text)
	permanent := code >= 500 || code < 400 && status[0] != 4
	v.Hard = permanent && v.Class.hard()
	return v
}

// classOf asks the sources in the order of how far they can be trusted.
func classOf(code int, status mail.EnhancedCode, text string) Class {
	strong, weak := words.find(text)
	if strong != Other {
		return strong
	}
	byS, sure := byStatus(status)
	switch {
	case sure:
		return byS
	case weak != Other:
		return weak
	case byS != Other:
		return byS
	}
	return byCode(code)
}

// vague tells whether an enhanced status code leaves open what is wrong.
func vague(e mail.EnhancedCode) bool { return e[1] == 0 || e[2] == 0 }

// detail is how much an enhanced status code tells.
func detail(e mail.EnhancedCode) int {
	switch {
	case e[1] == 0:
		return 0
	case e[2] == 0:
		return 1
	}
	return 2
}

// FindCode finds the first reply code that stands in a text, and where; 0 is
// none.
func FindCode(text string) (at, code int) {
	f := codes(text[:min(len(text), MaxText)])
	return f.at, f.code
}

// found is what codes finds in a text; zero where there is none.
type found struct {
	at, code int
	status   mail.EnhancedCode
}

// codes finds the first reply code and the first enhanced status code that
// stand in a text. An enhanced one that says something is preferred to one that
// does not.
func codes(text string) (f found) {
	for i := 0; i < len(text); i++ {
		if text[i] < '2' || text[i] > '5' || i > 0 && joins(text[i-1]) {
			continue
		}
		l := 1
		for i+l < len(text) && l < 12 && (isDigit(text[i+l]) || text[i+l] == '.') {
			l++
		}
		word := strings.TrimRight(text[i:i+l], ".")
		if i+l < len(text) && joins(text[i+l]) {
			i += l
			continue
		}
		if e := mail.ParseEnhancedCode(word); e != (mail.EnhancedCode{}) {
			if f.status[0] < 4 && e[0] >= 4 || f.status[0] == 0 || detail(e) > detail(f.status) && e[0] >= f.status[0] {
				f.status = e
			}
		} else if f.code == 0 && len(word) == 3 && word[0] >= '4' && word[1] <= '5' && !strings.Contains(word, ".") {
			f.at, f.code = i, int(word[0]-'0')*100+int(word[1]-'0')*10+int(word[2]-'0')
		}
		i += l - 1
	}
	return f
}

// joins tells that a number beside c is a part of something longer.
func joins(c byte) bool {
	return isDigit(c) || c == '.' || c == '@' || c == '_' || c == '/' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
