package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// verifyTimeout is how long all nodes may take to read their files.
const verifyTimeout = 3 * time.Minute

// entry is a row of audit list.
type entry struct {
	Sequence uint64            `json:"sequence"`
	At       *time.Time        `json:"at"`
	Kind     string            `json:"kind"` // request or outcome
	Call     string            `json:"call"`
	Node     string            `json:"node"`
	Who      string            `json:"who"`
	Role     string            `json:"role"`
	Method   string            `json:"method"`
	Action   string            `json:"action"`
	Target   string            `json:"target"`
	Reason   string            `json:"reason"`
	Of       uint64            `json:"of"` // of an outcome: sequence of the request, else 0
	Code     string            `json:"code"`
	Text     string            `json:"text"`
	Counts   map[string]uint64 `json:"counts"`
	Hash     string            `json:"hash"`
}

func entryOf(e *adminv1.AuditEntry) entry {
	out := entry{
		Sequence: e.GetSequence(), At: cmdline.Stamp(e.GetAt()), Call: e.GetCall(), Node: e.GetNode(), Who: e.GetWho(), Role: e.GetRole(), Method: e.GetMethod(),
		Action: e.GetAction(), Target: e.GetTarget(), Reason: e.GetReason(), Of: e.GetOf(), Code: e.GetCode(), Text: e.GetText(), Counts: map[string]uint64{}, Hash: e.GetHash(),
		Kind: strings.ToLower(strings.TrimPrefix(e.GetKind().String(), "AUDIT_KIND_")),
	}
	for _, c := range e.GetCounts() {
		out.Counts[c.GetName()] = c.GetN()
	}
	return out
}

func columns() []string {
	return []string{"NUMBER", "AT", "NODE", "WHO", "ROLE", "ACTION", "ABOUT", "REASON"}
}

// row prints an entry. An outcome is about the request's number.
func row(l *cmdline.List, e *adminv1.AuditEntry) error {
	about := e.GetTarget()
	if e.GetKind() == adminv1.AuditKind_AUDIT_KIND_OUTCOME {
		parts := []string{fmt.Sprintf("#%d: %s", e.GetOf(), e.GetCode())}
		for _, c := range e.GetCounts() {
			parts = append(parts, fmt.Sprintf("%s=%d", c.GetName(), c.GetN()))
		}
		about = strings.Join(append(parts, e.GetText()), " ")
	}
	cell := func(text string, limit int) string {
		if text = strings.TrimSpace(text); text == "" {
			return "-"
		}
		return cmdline.Cell(text, limit)
	}
	return l.Row(entryOf(e), fmt.Sprint(e.GetSequence()), e.GetAt().AsTime().UTC().Format(time.DateTime), cell(e.GetNode(), 20), cell(e.GetWho(), 30),
		cell(e.GetRole(), 20), cell(e.GetAction(), 30), cell(about, 60), cell(e.GetReason(), 40))
}

// filter is the flags that pick entries.
type filter struct{ since, until, who, method string }

func (f *filter) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.who, "who", "", "only what was done by callers whose name has this `text` in it")
	cmd.Flags().StringVar(&f.method, "method", "", "only methods or actions with this `text` in them, such as \"queue drop\"")
}

func (f *filter) read(cmd *cobra.Command, now time.Time) (*adminv1.AuditFilter, error) {
	out := &adminv1.AuditFilter{Who: f.who, Method: f.method}
	for _, t := range []struct {
		flag, text string
		to         **timestamppb.Timestamp
	}{{"--since", f.since, &out.Since}, {"--until", f.until, &out.Until}} {
		if t.text == "" {
			continue
		}
		at, ok := moment(t.text, now)
		if !ok {
			return nil, cmdline.Usagef(cmd.CommandPath(), "%s %q: a time such as 2h or 7d ago, 2026-11-23 or 2026-11-23T09:00:00Z", t.flag, t.text)
		}
		*t.to = timestamppb.New(at)
	}
	return out, nil
}

// moment reads a time, or how long ago it was.
func moment(text string, now time.Time) (time.Time, bool) {
	if d, err := cmdline.ParseSpan(text); err == nil {
		return now.Add(-d), true
	}
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(form, text); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}

func (a *nouns) auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "See what operators had done",
		Long: `See what operators had done. What changes something is written down before it is
done, and how it ended after that; every entry holds the hash of the one before.
Every node has the whole log in data_dir/audit. It takes the role admin or
auditor.`,
	}
	cmd.AddCommand(a.listCommand(), a.tailCommand(), a.verifyCommand())
	return cmd
}

func (a *nouns) listCommand() *cobra.Command {
	var f filter
	var limit int64
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the audit log",
		Example: `  clrelay audit list --since 24h
  clrelay audit list --who jane --method "queue drop" -o jsonl`,
		Args: cmdline.AtMost[*cobra.Command](0, "entries are picked with --since, --until, --who and --method"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			pick, err := f.read(cmd, a.Now())
			if err != nil {
				return err
			}
			return a.with(func(conn grpc.ClientConnInterface) error {
				stream, err := adminv1.NewAuditServiceClient(conn).List(cmd.Context(), &adminv1.AuditServiceListRequest{Filter: pick, Limit: limit})
				if err != nil {
					return err
				}
				l := a.List(columns()...)
				for {
					res, err := stream.Recv()
					if errors.Is(err, io.EOF) {
						return l.End()
					}
					for _, e := range res.GetEntries() {
						if err == nil {
							err = row(l, e)
						}
					}
					if err != nil {
						l.Cut()
						return err
					}
				}
			})
		},
	}
	f.flags(cmd)
	cmd.Flags().StringVar(&f.since, "since", "", "only from this `time` on: 2h, 7d, or a date")
	cmd.Flags().StringVar(&f.until, "until", "", "only before this `time`")
	cmd.Flags().Int64VarP(&limit, "limit", "n", 0, "only the last `N` of them; 0 is all")
	return cmd
}

func (a *nouns) tailCommand() *cobra.Command {
	var f filter
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Follow the audit log",
		Long:  "Follow the audit log: print new entries as they come, until interrupted.",
		Args:  cmdline.AtMost[*cobra.Command](0, "entries are picked with --who and --method"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			pick, err := f.read(cmd, a.Now())
			if err != nil {
				return err
			}
			if a.Format == cmdline.FormatJSON {
				a.Format = cmdline.FormatLines // what does not end is no array
			}
			return a.with(func(conn grpc.ClientConnInterface) error {
				stream, err := adminv1.NewAuditServiceClient(conn).Tail(cmd.Context(), &adminv1.AuditServiceTailRequest{Filter: pick})
				if err != nil {
					return err
				}
				l := a.List(columns()...)
				for {
					res, err := stream.Recv()
					if status.Code(err) == codes.Canceled && cmd.Context().Err() != nil {
						return cmd.Context().Err()
					}
					for _, e := range res.GetEntries() {
						if err == nil {
							err = row(l, e)
						}
					}
					l.Cut()
					if err != nil {
						return err
					}
				}
			})
		},
	}
	f.flags(cmd)
	return cmd
}

// finding is something that is wrong with a node's files.
type finding struct {
	File string `json:"file"`
	Line int64  `json:"line"`
	Text string `json:"text"`
}

// verified is a row of audit verify.
type verified struct {
	Node     string    `json:"node"`
	Entries  uint64    `json:"entries"`
	First    uint64    `json:"first"`
	Last     uint64    `json:"last"`
	Head     uint64    `json:"head"` // what was agreed
	Findings []finding `json:"findings"`
}

func (a *nouns) verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Check the audit log of every node",
		Long: `Have every node read all of its files of the audit log, compute the hashes anew
and compare them with what the cluster agreed about. A line that was changed,
taken out or put elsewhere is named with its file; the exit code is 8 then. A
node that does not answer is named, with exit code 7.`,
		Args: cmdline.AtMost[*cobra.Command](0, "all of it is checked"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(conn grpc.ClientConnInterface) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), verifyTimeout)
				defer cancel()
				res, err := adminv1.NewAuditServiceClient(conn).Verify(ctx, &adminv1.AuditServiceVerifyRequest{})
				if err != nil {
					return err
				}
				return a.printVerified(res)
			})
		},
	}
}

func (a *nouns) printVerified(res *adminv1.AuditServiceVerifyResponse) error {
	l, found := a.List("NODE", "ENTRIES", "FIRST", "LAST", "AGREED", "STATE"), 0
	for _, n := range res.GetNodes() {
		v := verified{n.GetNode(), n.GetEntries(), n.GetFirst(), n.GetLast(), n.GetHead(), []finding{}}
		for _, f := range n.GetFindings() {
			v.Findings = append(v.Findings, finding{f.GetFile(), f.GetLine(), f.GetText()})
		}
		found += len(v.Findings)
		state := "whole"
		if len(v.Findings) > 0 {
			state = cmdline.Plural(int64(len(v.Findings)), "finding")
		}
		if err := l.Row(v, cmdline.Cell(v.Node, 64), fmt.Sprint(v.Entries), fmt.Sprint(v.First), fmt.Sprint(v.Last), fmt.Sprint(v.Head), state); err != nil {
			return err
		}
	}
	if err := l.End(); err != nil {
		return err
	}
	for _, n := range res.GetNodes() {
		for _, f := range n.GetFindings() {
			place := n.GetNode()
			if f.GetFile() != "" {
				place += ": " + f.GetFile()
			}
			if f.GetLine() > 0 {
				place += fmt.Sprintf(":%d", f.GetLine())
			}
			a.Talk("%s: %s", cmdline.Cell(place, 300), cmdline.Cell(f.GetText(), 300))
		}
	}
	missing := strings.Join(res.GetMissingNodes(), ", ")
	switch {
	case found > 0 && missing != "":
		return cmdline.Exitf(cmdline.ExitFindings, "the audit log is not as it was written: %s; no answer from %s", cmdline.Plural(int64(found), "finding"), missing)
	case found > 0:
		return cmdline.Exitf(cmdline.ExitFindings, "the audit log is not as it was written: %s", cmdline.Plural(int64(found), "finding"))
	case missing != "":
		return cmdline.Exitf(cmdline.ExitPartly, "no answer from %s: its files are not checked", missing)
	}
	return nil
}
