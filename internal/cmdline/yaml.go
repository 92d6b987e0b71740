package cmdline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// writeYAML writes a JSON text as YAML in block style, with its keys in the
// order they have. Strings are plain where no reader could take them for
// something else, and in JSON's quotes, which are YAML's too, everywhere else.
func writeYAML(w io.Writer, text []byte, pad string) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	y := &yamlWriter{dec: dec}
	if err := y.value(pad, ""); err != nil {
		return err
	}
	_, err := w.Write(y.b.Bytes())
	return err
}

type yamlWriter struct {
	dec *json.Decoder
	b   bytes.Buffer
}

// value writes the next value. lead is what stands before it on its line:
// after "- " or "key:" a scalar goes on there, and so does a map after "- ".
func (y *yamlWriter) value(pad, lead string) error {
	tok, err := y.dec.Token()
	if err != nil {
		return err
	}
	delim, ok := tok.(json.Delim)
	switch {
	case !ok:
		if strings.HasSuffix(lead, ":") {
			lead += " "
		}
		fmt.Fprintf(&y.b, "%s%s\n", lead, yamlScalar(tok))
		return nil
	case !y.dec.More():
		if strings.HasSuffix(lead, ":") {
			lead += " "
		}
		_, err = y.dec.Token()
		fmt.Fprintf(&y.b, "%s%s\n", lead, map[json.Delim]string{'[': "[]", '{': "{}"}[delim])
		return err
	}
	inItem := strings.HasSuffix(lead, "- ")
	if lead != "" && !inItem {
		y.b.WriteString(lead + "\n")
	}
	for first := true; y.dec.More(); first = false {
		start := pad
		if first && inItem {
			start = lead
		}
		if delim == '[' {
			if err := y.value(pad+"  ", start+"- "); err != nil {
				return err
			}
			continue
		}
		key, err := y.dec.Token()
		if err != nil {
			return err
		}
		if err := y.value(pad+"  ", start+yamlScalar(key)+":"); err != nil {
			return err
		}
	}
	_, err = y.dec.Token()
	return err
}

// plainYAML are strings that are nothing but strings without quotes, too.
var plainYAML = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.@/-]*$`)

func yamlScalar(tok json.Token) string {
	s, ok := tok.(string)
	if !ok {
		if tok == nil {
			return "null"
		}
		return fmt.Sprint(tok)
	}
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
	default:
		if plainYAML.MatchString(s) {
			return s
		}
	}
	quoted, err := Marshal(s)
	if err != nil {
		return `""` // a string can always be marshalled
	}
	return escapeYAML(string(quoted))
}

// escapeYAML escapes what JSON lets stand in a string and YAML does not: a
// next line (U+0085) is a line break to it, the others are not printable.
func escapeYAML(quoted string) string {
	var b strings.Builder
	for _, r := range quoted {
		if r >= 0x7f && r <= 0x9f || r == '\ufeff' || r == 0xfffe || r == 0xffff {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
