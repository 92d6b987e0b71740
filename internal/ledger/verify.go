package ledger

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/clrelay/clrelay/cluster/fsm/audit"
	"github.com/clrelay/clrelay/proto/control"
)

// maxFindings bounds a report: a file of nonsense says nothing more after these.
const maxFindings = 100

// Report is what was found in the files.
type Report struct {
	Entries     uint64
	First, Last uint64
	Head        uint64 // of the chain as it was agreed
	Findings    []Finding
}

// Finding is something that is wrong.
type Finding struct {
	File string
	Line int // 0: about none
	Text string
}

// Check verifies the files while they are being written.
func (f *Files) Check(src Source) (Report, error) {
	head, _ := src.Audited()
	v := newVerifier(head, src.AuditsAfter(0))
	if err := f.each(v.line); err != nil {
		return Report{}, err
	}
	v.end(src.AuditsAfter(head.Sequence))
	return v.report, nil
}

// Verify reads all files and computes the chain anew. Head is where it must
// end, and agreed are lines of it that are known from elsewhere.
func (f *Files) Verify(head control.AuditMark, agreed []control.AuditLine) (Report, error) {
	v := newVerifier(head, agreed)
	if err := f.each(v.line); err != nil {
		return Report{}, err
	}
	v.end(nil)
	return v.report, nil
}

func newVerifier(head control.AuditMark, agreed []control.AuditLine) *verifier {
	v := &verifier{report: Report{Head: head.Sequence}, head: head, agreed: map[uint64][32]byte{}, begins: true}
	for _, l := range agreed {
		v.agreed[l.Sequence] = l.Hash
	}
	return v
}

// end looks at where the files end. Later are the entries that were agreed
// about while they were read: what stands behind the head must be one of them.
func (v *verifier) end(later []control.AuditLine) {
	for _, l := range later {
		v.agreed[l.Sequence] = l.Hash
	}
	for _, p := range v.late {
		if v.agreed[p.mark.Sequence] != p.mark.Hash {
			v.find(p.file, p.line, "entry %d was never agreed", p.mark.Sequence)
		}
	}
	switch {
	case v.last.Sequence < v.head.Sequence:
		v.find("", 0, "the files end with entry %d: entries %d to %d are missing", v.last.Sequence, v.last.Sequence+1, v.head.Sequence)
	case v.last.Sequence == v.head.Sequence && v.last != v.head:
		v.find("", 0, "entry %d, the last, is not the one that was agreed", v.head.Sequence)
	}
}

// place is where an entry was read.
type place struct {
	file string
	line int
	mark control.AuditMark
}

type verifier struct {
	report Report
	agreed map[uint64][32]byte
	head   control.AuditMark // that was agreed before anything was read
	late   []place           // entries behind it
	last   control.AuditMark // of the line before
	begins bool              // nothing was read yet
	other  []int             // findings that are none where another chain begins behind them
	lost   bool              // the line before cannot be read, or says that others are missing
}

func (v *verifier) find(file string, line int, format string, args ...any) {
	if len(v.report.Findings) < maxFindings {
		v.report.Findings = append(v.report.Findings, Finding{File: file, Line: line, Text: fmt.Sprintf(format, args...)})
	}
}

func (v *verifier) line(file string, n int, line []byte) error {
	text, stated, ok := split(line)
	if !ok {
		v.note(file, n, line)
		return nil
	}
	l, err := audit.Parse(text)
	if err != nil {
		v.find(file, n, "the line cannot be read")
		v.lost, v.begins = true, false
		return nil
	}
	if l.Sequence > v.head.Sequence {
		v.late = append(v.late, place{file, n, l.AuditMark})
	}
	if stated != l.Hash {
		v.find(file, n, "entry %d was changed: its hash is another one than stands there", l.Sequence)
	}
	switch {
	case v.begins && l.Sequence != 1:
		v.find(file, n, "the log begins with entry %d: those before it are missing", l.Sequence)
	case v.begins || v.lost:
	case l.Sequence != v.last.Sequence+1:
		v.find(file, n, "entry %d follows entry %d: some are missing, or they were put into another order", l.Sequence, v.last.Sequence)
	case l.Prev != v.last.Hash:
		v.find(file, n, "entry %d does not follow the line before it: that one was changed, or this is another chain's", l.Sequence)
	}
	if hash, ok := v.agreed[l.Sequence]; ok && hash != l.Hash && stated == l.Hash {
		v.find(file, n, "entry %d is not the one that was agreed", l.Sequence)
		if at := len(v.report.Findings) - 1; !slices.Contains(v.other, at) {
			v.other = append(v.other, at)
		}
	}
	if v.report.First == 0 {
		v.report.First = l.Sequence
	}
	v.report.Entries++
	v.report.Last = l.Sequence
	// What stands there is what the next line follows: who was changed is named
	// once.
	v.last = control.AuditMark{Sequence: l.Sequence, Hash: stated}
	v.begins, v.lost = false, false
	return nil
}

// note reads a line that is no entry.
func (v *verifier) note(file string, n int, line []byte) {
	var note Note
	if err := json.Unmarshal(line, &note); err != nil || note.Text == "" {
		v.find(file, n, "the line cannot be read")
		note = Note{}
	}
	if note.Restarts {
		for _, at := range slices.Backward(v.other) {
			v.report.Findings = slices.Delete(v.report.Findings, at, at+1)
		}
		v.other, v.late = nil, nil
	}
	if note.Text != "" && (!note.Begins || !v.begins) {
		v.find(file, n, "entries %d to %d: %s", note.From, note.To, note.Text)
	}
	v.lost, v.begins = true, false
}
