package suppress

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
	"github.com/clrelay/clrelay/proto/control"
)

const (
	maxLine   = 16 << 10 // octets of a line of an import
	maxErrors = 20       // that are shown one by one
	batch     = 500      // entries of one request
)

// header names the columns of a CSV file, as export writes them.
func header() []string {
	return []string{"address", "sender", "reason", "text", "source", "created", "expires"}
}

// reading reads a file of entries, line by line.
type reading struct {
	now     time.Time
	expires *timestamppb.Timestamp // of entries that say nothing
	text    string                 // likewise
	columns map[string]int         // nil: there is no header
	most    int                    // entries that are read
	list    []*adminv1.Suppression
	wrong   []string
	errs    int
}

// bad notes what is wrong with a line.
func (r *reading) bad(line int, format string, args ...any) {
	if r.errs++; r.errs <= maxErrors {
		r.wrong = append(r.wrong, fmt.Sprintf("line %d: ", line)+fmt.Sprintf(format, args...))
	}
}

// all reads all lines.
func (r *reading) all(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, maxLine), maxLine)
	n := 0
	for first := true; lines.Scan(); {
		n++
		line := strings.TrimSpace(strings.TrimPrefix(lines.Text(), "\ufeff"))
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		switch {
		case first && r.head(line):
		case len(r.list) >= r.most:
			return fmt.Errorf("line %d: more than %s, which is all that the list can hold", n, entries(int64(r.most)))
		case strings.HasPrefix(line, "{"):
			r.object(n, line)
		default:
			r.row(n, line)
		}
		first = false
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d is longer than %s: this is no list of addresses", n+1, cmdline.Size(maxLine))
	}
	return lines.Err()
}

// head takes a first line for the header of a CSV file if it is one.
func (r *reading) head(line string) bool {
	names, err := fields(line)
	if err != nil || strings.Contains(line, "@") {
		return false
	}
	columns := map[string]int{}
	for i, name := range names {
		columns[strings.ToLower(strings.TrimSpace(name))] = i
	}
	if _, ok := columns["address"]; !ok {
		return false
	}
	r.columns = columns
	return true
}

func fields(line string) ([]string, error) {
	c := csv.NewReader(strings.NewReader(line))
	c.TrimLeadingSpace = true
	return c.Read()
}

// row reads a line of CSV, or an address alone.
func (r *reading) row(n int, line string) {
	if r.columns == nil {
		r.entry(n, entry{Address: strings.TrimSuffix(line, ",")}, "", "")
		return
	}
	cells, err := fields(line)
	var at *csv.ParseError
	if errors.As(err, &at) {
		err = at.Err
	}
	if err != nil {
		r.bad(n, "no CSV: %v", err)
		return
	}
	cell := func(name string) string {
		if i, ok := r.columns[name]; ok && i < len(cells) {
			return strings.TrimSpace(cells[i])
		}
		return ""
	}
	r.entry(n, entry{
		Address: cell("address"), Sender: cell("sender"), Reason: cell("reason"), Text: cell("text"), Source: cell("source"),
	}, cell("created"), cell("expires"))
}

// object reads a line of JSON.
func (r *reading) object(n int, line string) {
	var e entry
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		r.bad(n, "no JSON of an entry: %v", err)
		return
	}
	stamp := func(t *time.Time) string {
		if t == nil {
			return ""
		}
		return t.Format(time.RFC3339Nano)
	}
	r.entry(n, e, stamp(e.Created), stamp(e.Expires))
}

// entry takes an entry in, or notes what is wrong with it.
func (r *reading) entry(n int, e entry, created, expires string) {
	out := &adminv1.Suppression{
		Address: e.Address, Scope: e.Sender, Text: e.Text, Source: e.Source, Reason: adminv1.SuppressionReason_SUPPRESSION_REASON_IMPORT, Expires: r.expires,
	}
	if out.Text == "" {
		out.Text = r.text
	}
	if _, err := suppressed.ParseAddress(e.Address); err != nil {
		r.bad(n, "%q: %v", cmdline.Cell(e.Address, 80), err)
		return
	}
	if _, err := suppressed.ParseScope(e.Sender); err != nil {
		r.bad(n, "the sender %q: %v", cmdline.Cell(e.Sender, 80), err)
		return
	}
	if e.Reason != "" {
		var ok bool
		if out.Reason, ok = reasonOf(e.Reason); !ok {
			r.bad(n, "the reason %q is none of %s", cmdline.Cell(e.Reason, 40), strings.Join(reasons(), ", "))
			return
		}
	}
	if len(out.Text) > control.MaxSuppressText {
		r.bad(n, "the text has more than %d octets", control.MaxSuppressText)
		return
	}
	for _, t := range []struct {
		name, text string
		to         **timestamppb.Timestamp
	}{{"created", created, &out.Created}, {"expires", expires, &out.Expires}} {
		if t.text == "" {
			continue
		}
		at, ok := date(t.text)
		if !ok {
			r.bad(n, "%s: %q is no time such as 2026-11-23 or 2026-11-23T09:00:00Z", t.name, cmdline.Cell(t.text, 40))
			return
		}
		*t.to = timestamppb.New(at)
	}
	if out.Expires != nil && !out.Expires.AsTime().After(r.now) {
		return // it is over: nothing to keep
	}
	r.list = append(r.list, out)
}

func (a *nouns) importCommand() *cobra.Command {
	var span, reason string
	var dry bool
	cmd := &cobra.Command{
		Use:   "import FILE|-",
		Short: "Put the addresses of a file on the list",
		Long: `Put the addresses of a file, or of stdin (-), on the list: one a line; or CSV whose
first line names the columns, of which address is needed and sender, reason, text,
source, created and expires are known; or what suppress export -o jsonl prints.
Empty lines and those that begin with # are passed over. All lines are checked
before the first is added, and what is wrong is told by line. To import a file
again changes nothing.`,
		Example: "  clrelay suppress import bounced.txt --for 365d --reason \"list of the old relay\"\n  clrelay suppress export -o csv | ssh mx9 clrelay suppress import -",
		Args:    cmdline.Exactly[*cobra.Command](1, "it takes one file, or - for stdin"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := &reading{now: a.Now(), text: reason, most: control.MaxSuppressed}
			if span != "" {
				d, err := cmdline.ParseSpan(span)
				if err != nil || d <= 0 {
					return cmdline.Usagef(cmd.CommandPath(), "--for: %q is no duration such as 12h or 30d", span)
				}
				r.expires = timestamppb.New(r.now.Add(d))
			}
			if err := a.read(r, args[0]); err != nil {
				return err
			}
			if dry {
				return a.Object(changed{Changed: int64(len(r.list))}, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "would add %s; those that are there alike are not counted apart\n", entries(int64(len(r.list))))
					return err
				})
			}
			return a.load(cmd.Context(), r.list, reason)
		},
	}
	f := cmd.Flags()
	f.StringVar(&span, "for", "", "for this `duration`, where a line says nothing: 30d, 365d; else until they are removed")
	f.StringVar(&reason, "reason", "", "`text` of entries that have none, and why, for the audit log")
	f.BoolVar(&dry, "dry-run", false, "check the lines, add nothing")
	return cmd
}

// read reads and checks a file.
func (a *nouns) read(r *reading, name string) error {
	in, what := a.Stdin, "stdin"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in, what = f, name
	}
	if err := r.all(in); err != nil {
		return fmt.Errorf("%s: %w; nothing was added", what, err)
	}
	if r.errs > 0 {
		for _, w := range r.wrong {
			a.Talk("%s: %s", what, w)
		}
		if r.errs > maxErrors {
			a.Talk("%s: and more lines that are wrong", what)
		}
		lines := cmdline.Plural(int64(r.errs), "line")
		return cmdline.Exitf(cmdline.ExitFailed, "%s: %s wrong; nothing was added", what, lines)
	}
	return nil
}

// load adds entries, batch by batch.
func (a *nouns) load(ctx context.Context, list []*adminv1.Suppression, reason string) error {
	var out changed
	err := a.with(func(conn grpc.ClientConnInterface) error {
		for done := 0; done < len(list); done += batch {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			res, err := adminv1.NewSuppressionServiceClient(conn).AddSuppressions(ctx, &adminv1.AddSuppressionsRequest{Entries: list[done:min(done+batch, len(list))], Reason: reason})
			cancel()
			if err != nil {
				if done > 0 {
					a.Talk("%s of %s were looked at before it failed; to import all again is safe.", cmdline.Count(int64(done)), cmdline.Count(int64(len(list))))
				}
				return err
			}
			out.Changed += res.GetChanged()
			out.Unchanged += res.GetUnchanged()
			out.Full += res.GetFull()
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = a.Object(out, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "added or changed %s; %s there already\n", entries(out.Changed), entries(out.Unchanged))
		return err
	})
	if err == nil && out.Full > 0 {
		err = full(out.Full)
	}
	return err
}

func (a *nouns) export() *cobra.Command {
	var f filter
	cmd := &cobra.Command{
		Use:         "export",
		Short:       "Print the list for other programs, or to import it elsewhere",
		Long:        "Print the list with -o csv, or in one of the common formats; csv where -o is not\ngiven. suppress import reads csv and jsonl.",
		Example:     "  clrelay suppress export -o csv > suppressed.csv",
		Annotations: map[string]string{CSV: "yes"},
		Args:        cmdline.AtMost[*cobra.Command](0, "pick with flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := f.request(cmd, a.Now())
			if err != nil {
				return err
			}
			if a.Format != CSV && a.Format != cmdline.FormatTable {
				out := a.List(columns()...)
				if _, err := a.each(cmd.Context(), req, func(e *entry) error { return out.Row(*e, e.cells(a.Now())...) }); err != nil {
					return err
				}
				return out.End()
			}
			buf := bufio.NewWriter(a.Stdout)
			w := csv.NewWriter(buf)
			if err := w.Write(header()); err != nil {
				return err
			}
			if _, err := a.each(cmd.Context(), req, func(e *entry) error { return w.Write(e.record()) }); err != nil {
				return err
			}
			w.Flush()
			return errors.Join(w.Error(), buf.Flush())
		},
	}
	f.flags(cmd, 0)
	return cmd
}

// record is a row of CSV.
func (e *entry) record() []string {
	stamp := func(t *time.Time) string {
		if t == nil {
			return ""
		}
		return t.Format(time.RFC3339Nano)
	}
	return []string{e.Address, e.Sender, e.Reason, e.Text, e.Source, stamp(e.Created), stamp(e.Expires)}
}
