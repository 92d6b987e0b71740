// Package clrelay_test holds the house rules of the source tree as tests:
// which package may import which, which library may be used where, and how
// large things may grow. The data below is policy: a change that breaks it is
// mended in the code, not here, unless the policy itself is to change.
package clrelay_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/clrelay/clrelay"

// floors says on which floor a package lives. A package imports only packages
// of lower floors: neighbours meet through interfaces that the asking side
// declares, and cmd wires them. The longest matching prefix counts.
var floors = map[string]int{
	"internal/mail":               0, // the nouns
	"internal/limit":              0, // rates, connections and budgets
	"internal/limit/local":        1, // a node held to its part of them
	"internal/abuse":              1, // how clients behave
	"internal/limit/subject":      2, // what limits look at, of what mail is made of
	"proto":                       0, // records and services as data
	"proto/control/wire":          1, // the control plane's nouns as messages
	"internal":                    1, // tools that know nothing of mail's way through the relay
	"internal/tracelog":           2, // what happened to which message
	"internal/tracelog/record":    1, // one such event as octets
	"internal/admin/audit":        4, // writes down what operators do, and shows it
	"internal/admin/who":          3, // who calls, and what he may do
	"internal/admin/mask":         3, // hides addresses in its answers
	"internal/ledger":             2, // the audit log in files, and the records of a machine that is alone
	"internal/config/words":       0, // values of settings
	"internal/config/limits":      0, // its section about limits
	"internal/config/shaping":     0, // its section about what destinations bear
	"internal/config/strict":      0, // YAML into tagged structs, for internal/config alone
	"spool/wal":                   2, // the log under the spool
	"spool/wal/logfile":           2, // what its files look like
	"spool/record":                1, // what the log's records say
	"spool/datadir":               2, // the directory around the log
	"spool/state":                 2, // what the spool knows in memory
	"spool/compact":               3, // what the spool needs no more
	"spool/content":               3, // what the spool holds, to be read
	"spool/take":                  3, // what other nodes send
	"spool/state/books":           2, // what of which log file is needed
	"spool/state/index":           1, // messages by ID
	"spool/inspect":               4, // a spool that does not run, looked at
	"delivery/smtpc/wire":         1, // replies in, octets out
	"delivery/smtpc/stage":        1, // the steps of a session, and how long they may take
	"delivery/smtpc/keep":         0, // idle connections
	"delivery/allow/node":         3, // asks the node's limits
	"delivery/allow":              2, // how an attempt asks what it may do
	"delivery/smtpc/sasl":         1, // authentication mechanisms
	"delivery/smtpc":              2, // client sessions
	"delivery/route":              2, // where mail goes
	"delivery/dsn":                2, // reports
	"delivery/dsn/received":       3, // those that others wrote
	"delivery/shape":              2, // what destinations bear
	"delivery/site":               2, // who runs the hosts of a destination
	"delivery/returns":            4, // return paths: out and back
	"delivery/source":             1, // own addresses to send from
	"delivery/source/warmup":      2, // how much a new one may send
	"delivery/ranking":            1, // which of equal hosts is best
	"smtpd/policy":                2, // who may relay
	"smtpd/bounds":                2, // how much a session may take
	"smtpd/guard":                 2, // who asks whether clients keep to measure
	"smtpd/recipients":            2, // which recipients our domains have
	"smtpd/wire":                  2, // octets, lines and replies
	"smtpd/later":                 2, // when mail is to be delivered
	"spool":                       3, // the one door to 250
	"delivery":                    3, // one attempt
	"delivery/queue/sched":        2, // the scheduler as a step function: knows internal/mail alone
	"delivery/queue":              4, // when to attempt
	"smtpd":                       4, // the server
	"cluster/fsm":                 2, // what Raft decides, as a pure state machine
	"cluster/fsm/records":         1, // the operators' records of its state
	"cluster/fsm/suppressed":      1, // the suppression list of its state
	"cluster/fsm/audit":           1, // the audit chain of its state
	"cluster/fsm/shares":          1, // how limits are divided
	"cluster/pki":                 2, // the cluster's certificates
	"cluster/enroll":              3, // how nodes get their certificates
	"cluster/gossip":              3, // who seems to be there
	"cluster/raftnode":            3, // who decides
	"cluster/raftnode/store":      2, // its disk
	"cluster/raftnode/ask":        2, // its questions to other nodes
	"cluster/raftnode/votes":      2, // who is to have one
	"cluster/mark":                3, // a data_dir told from an old copy of it
	"cluster/port":                3, // one port for all protocols between nodes
	"cluster/replica":             3, // streams of items between nodes
	"cluster/segment":             3, // the replication protocol as a step function
	"cluster/segment/ages":        1, // how long numbers wait
	"cluster/segment/lease":       1, // until when a node may answer and deliver
	"cluster/lead":                3, // the leader's duties as a step function
	"cluster/limit":               3, // how limits are divided, the leader's part as a step function
	"cluster/limit/alone":         3, // all of it for a machine that is in no cluster
	"cluster/limit/keeper":        4, // and runs both
	"cluster/view":                3, // what Raft has decided, as this node has applied it
	"cluster/limit/agent":         3, // and a node's
	"cluster/clock":               1, // what leases are counted by
	"cluster/ledger":              4, // the operators' records and the audit chain, on a node
	"cluster/drive":               4, // runs the protocol on the spool and the queue
	"cluster":                     5, // a node of the cluster: wires the above with the spool
	"internal/admin":              5, // the operator's API
	"internal/admin/certs":        4, // the part of it about the nodes' certificates
	"internal/admin/configs":      3, // the part of it about the shared configuration
	"internal/admin/rescue":       3, // the part of it for disasters
	"internal/admin/fleet":        2, // asks the other nodes
	"internal/admin/methods":      2, // what each method does
	"internal/admin/jobs":         3, // changes of the queue that take long
	"internal/admin/trace":        3, // the part of it that says where a message is or was
	"internal/admin/content":      3, // the part of it that shows what is in a message
	"internal/admin/suppress":     3, // the part of it about the suppression list
	"internal/admin/shape":        3, // counts what is queued by domain, age and reason
	"spool/spooltest":             4, // crash suite, used by tests alone
	"cmd":                         6, // wires everything
	"cmd/clrelay/submit":          5, // a client of the relay, for commands
	"docs":                        0, // the manual
	"test":                        6, // drives everything
	"internal/limit/local/bucket": 0, // a node's part of a rate
	"internal/limit/local/purse":  0, // what is granted of a budget
	"cluster/gossip/lexer":        2, // looks at what members send
	"internal/config/ramp":        0, // how the warm-up of an address is written

	"delivery/queue/clock":       0, // the queue's time
	"delivery/queue/told":        2, // what the queue tells
	"delivery/queue/limits":      3, // between the limits and the scheduler
	"delivery/queue/keys":        2, // senders and domains as numbers
	"delivery/queue/reach":       3, // what outcomes say of the destination
	"delivery/queue/sched/timer": 0, // record numbers by time
	"delivery/queue/sched/slab":  0, // records by number
	"delivery/queue/sched/turns": 0, // whose turn it is
	"delivery/queue/sched/pace":  0, // how many at once
	"delivery/queue/sched/gate":  1, // who waits for a limit
	"delivery/queue/sched/event": 2, // what a scheduler is told, and what it says

	"delivery/queue/sched/settings": 0, // what a scheduler is told
	"delivery/queue/sched/view":     1, // how it shows what it holds
	"internal/admin/lists":          3, // the lists of all nodes as one
	"internal/admin/rules":          3, // the part of the operator's API about hold rules
	"internal/admin/lockouts":       3, // the part of it about clients that misbehave
	"internal/picks":                2, // which recipients an operator means
}

// sameFloor lists the imports between neighbours that are allowed, each with
// its reason.
var sameFloor = map[string]string{
	"internal/metrics -> internal/bounce": "the classes of replies are the values of a label",

	"spool/state -> spool/wal":         "the spool's thinking needs the log's nouns: places and headers",
	"spool -> spool/compact":           "the spool and what keeps it small are one thing, cut in two by size",
	"spool -> spool/content":           "the spool hands its readers out: they are a part of it, cut off by size",
	"spool -> spool/take":              "what comes from other nodes is checked behind the same door, cut off by size",
	"spool/state -> spool/state/books": "what is known and what is needed of it are one thing, cut in two by size",
	"spool/state/books -> spool/wal":   "the books need the log's places",
	"spool/wal -> spool/wal/logfile":   "the log and the form of its files are one thing, cut in two by size",

	"internal/config/words -> internal/config/strict":       "values of settings guess as the reader of the file does",
	"internal/config/words -> internal/mail":                "mailboxes are addresses",
	"internal/config/limits -> internal/config/strict":      "a section of settings, cut off by size",
	"internal/config/limits -> internal/config/words":       "a section of settings, cut off by size",
	"internal/config/limits -> internal/limit":              "the section is made of the nouns of limits",
	"internal/config/limits -> internal/mail":               "senders are addresses",
	"internal/config/shaping -> internal/config/strict":     "a section of settings, cut off by size",
	"internal/config/shaping -> internal/config/words":      "a section of settings, cut off by size",
	"cmd/clrelay/serve/limits -> cmd/clrelay/serve/shaping": "what operators see of limits is made where they come from",

	"cmd/clrelay/cli/queue -> cmd/clrelay/cli/jobs": "a verb that the cluster carries out as a job is followed as one",

	"delivery/queue/sched -> delivery/queue/sched/event": "what a scheduler is told is its own, cut off by size",
	"delivery/queue -> delivery/queue/walk":              "what operators look for is found by the queue, cut off by size",
	"delivery/queue -> delivery/queue/whole":             "content that knows whether it is damaged is a part of an attempt, cut off by size",
	"delivery/queue -> delivery/queue/later":             "what senders said of when is a part of the queue, cut off by size",
	"delivery/queue -> delivery/queue/word":              "what an operator's word does is a part of the queue, cut off by size",

	"cluster/limit/agent -> cluster/limit":                 "a node's part speaks the leader's words",
	"cluster/segment -> cluster/segment/place":             "whom a segment lies with is a part of the protocol, cut off by size",
	"cmd/clrelay/serve/watch -> cmd/clrelay/serve/explain": "what was sent and what would be are one service, cut in two by size",
	"cluster/segment -> cluster/segment/balance":           "what is to move where is a part of the protocol, cut off by size",
}

// fences says which packages may use a library: it stays behind the package
// that was made for it, so that it can be replaced there. Test files and the
// folder test/ are free.
var fences = map[string][]string{
	"github.com/miekg/dns":             {"internal/dnsx"},
	"go.yaml.in/yaml":                  {"internal/config"},
	"github.com/emersion/go-smtp":      {"cmd/clrelay"}, // the demo's inbox
	"github.com/emersion/go-sasl":      {"cmd/clrelay"},
	"google.golang.org/grpc":           {"internal/admin", "proto", "cmd/clrelay", "cluster"},
	"github.com/hashicorp/raft":        {"cluster/raftnode"},
	"github.com/hashicorp/raft-boltdb": {"cluster/raftnode"},
	"github.com/hashicorp/memberlist":  {"cluster/gossip"},
	"github.com/hashicorp/go-hclog":    {"cluster/raftnode"},
	"github.com/prometheus":            {"internal/metrics"},
	"github.com/pires/go-proxyproto":   {"smtpd"},
	"github.com/xdg-go/scram":          {"delivery/smtpc"},
	"github.com/spf13/cobra":           {"cmd/clrelay"},
	"github.com/klauspost/compress":    {"internal/tracelog"},
	"github.com/cespare/xxhash":        {"internal/tracelog"},
	"charm.land":                       {"cmd/clrelay/cli/top"}, // the one live screen of an operator
	"golang.org/x/sys":                 {"internal/vfs", "internal/admin", "spool", "cmd/clrelay", "cluster"},
}

// Budgets. A function, file or package that outgrows them is split; the few
// that may not are named in arch_budget.txt, which may only shrink.
const (
	maxFuncLines    = 100
	softFuncLines   = 70
	softFuncShare   = 0.02
	maxFileLines    = 800
	maxPackageCode  = 1500
	maxParams       = 5
	maxIfaceMethods = 4
	budgetFile      = "arch_budget.txt"
)

type source struct {
	path string // slash-separated, from the root
	pkg  string // folder
	test bool
	gen  bool
	file *ast.File
	fset *token.FileSet
	text []byte
}

func loadSources(t *testing.T) []source {
	t.Helper()
	var out []source
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); p != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "tools") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, p, text, parser.ParseComments)
		if err != nil {
			return err
		}
		p = filepath.ToSlash(p)
		out = append(out, source{
			path: p, pkg: path.Dir(p), file: f, fset: fset, text: text,
			test: strings.HasSuffix(p, "_test.go") || strings.HasPrefix(p, "test/"),
			gen:  ast.IsGenerated(f),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func floorOf(pkg string) (int, bool) {
	best, floor := -1, 0
	for prefix, f := range floors {
		if (pkg == prefix || strings.HasPrefix(pkg, prefix+"/")) && len(prefix) > best {
			best, floor = len(prefix), f
		}
	}
	return floor, best >= 0
}

func imports(s source) []string {
	var out []string
	for _, im := range s.file.Imports {
		p, _ := strconv.Unquote(im.Path.Value)
		out = append(out, p)
	}
	return out
}

func TestImportsGoDown(t *testing.T) {
	for _, s := range loadSources(t) {
		if s.test || s.pkg == "." {
			continue
		}
		from, ok := floorOf(s.pkg)
		if !ok {
			t.Errorf("%s: package %s has no floor: say in arch_test.go where it lives", s.path, s.pkg)
			continue
		}
		for _, im := range imports(s) {
			to, ours := strings.CutPrefix(im, module+"/")
			if !ours {
				continue
			}
			floor, _ := floorOf(to)
			if _, ok := sameFloor[s.pkg+" -> "+to]; ok || floor < from || strings.HasPrefix(s.pkg, "cmd/") && strings.HasPrefix(to, s.pkg) {
				continue
			}
			t.Errorf("%s: %s (floor %d) imports %s (floor %d): imports go down only", s.path, s.pkg, from, to, floor)
		}
	}
}

func TestLibraryFences(t *testing.T) {
	for _, s := range loadSources(t) {
		if s.test {
			continue
		}
		for _, im := range imports(s) {
			if s.pkg == "internal/mail" && strings.Contains(strings.SplitN(im, "/", 2)[0], ".") {
				t.Errorf("%s: internal/mail imports %s: it imports the standard library alone", s.path, im)
			}
			for lib, where := range fences {
				if im != lib && !strings.HasPrefix(im, lib+"/") {
					continue
				}
				if !inAny(s.pkg, where) {
					t.Errorf("%s: imports %s, which stays inside %s", s.path, im, strings.Join(where, ", "))
				}
			}
		}
	}
}

func inAny(pkg string, prefixes []string) bool {
	for _, p := range prefixes {
		if pkg == p || strings.HasPrefix(pkg, p+"/") {
			return true
		}
	}
	return false
}

func TestPackageDocs(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range loadSources(t) {
		if s.test && !strings.HasPrefix(s.path, "test/") {
			continue
		}
		documented[s.pkg] = documented[s.pkg] || s.gen || s.file.Doc != nil && len(s.file.Doc.Text()) > 40
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %s has no doc comment that says what it is for", pkg)
		}
	}
}

func TestNoInitAndNoMutableGlobals(t *testing.T) {
	vars := map[string]map[string]bool{} // package -> names of its variables
	all := loadSources(t)
	for _, s := range all {
		if s.test || s.gen {
			continue
		}
		for _, d := range s.file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: has an init(): wire things in cmd", s.path)
			}
			gd, ok := d.(*ast.GenDecl)
			if !ok || gd.Tok != token.VAR {
				continue
			}
			for _, spec := range gd.Specs {
				for _, n := range spec.(*ast.ValueSpec).Names {
					if vars[s.pkg] == nil {
						vars[s.pkg] = map[string]bool{}
					}
					vars[s.pkg][n.Name] = true
				}
			}
		}
	}
	for _, s := range all {
		if !s.test && !s.gen {
			reportAssignments(t, s, vars[s.pkg])
		}
	}
}

// reportAssignments finds writes to package variables. The parser resolves
// identifiers within a file; one that stays unresolved and bears the name of
// a package variable is that variable, declared in another file.
func reportAssignments(t *testing.T, s source, vars map[string]bool) {
	check := func(e ast.Expr) {
		for {
			if ix, ok := e.(*ast.IndexExpr); ok {
				e = ix.X
				continue
			}
			break
		}
		id, ok := e.(*ast.Ident)
		if !ok || id.Name == "_" || !vars[id.Name] {
			return
		}
		if id.Obj != nil { //nolint:staticcheck // the resolver is good enough for this
			if spec, ok := id.Obj.Decl.(*ast.ValueSpec); !ok || s.file.Scope.Lookup(id.Name) == nil || spec != s.file.Scope.Lookup(id.Name).Decl {
				return
			}
		}
		t.Errorf("%s: assigns to the package variable %s: state belongs into a struct", s.fset.Position(id.Pos()), id.Name)
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, l := range n.Lhs {
					check(l)
				}
			}
		case *ast.IncDecStmt:
			check(n.X)
		}
		return true
	})
}

func TestBudgets(t *testing.T) {
	allowed := readBudget(t)
	used := map[string]bool{}
	over := func(key string, got, limit int) {
		if max, ok := allowed[key]; ok && got <= max {
			used[key] = true
			if got < max*9/10 {
				t.Errorf("%s is down to %d: lower its line in %s", key, got, budgetFile)
			}
			return
		}
		t.Errorf("%s has %d, the limit is %d", key, got, limit)
	}
	funcs, long := 0, 0
	pkgCode := map[string]int{}
	for _, s := range loadSources(t) {
		if s.test || s.gen {
			continue
		}
		lines := bytes.Count(s.text, []byte("\n"))
		if lines > maxFileLines {
			over(s.path+" lines", lines, maxFileLines)
		}
		pkgCode[s.pkg] += codeLines(s)
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				got := s.fset.Position(n.End()).Line - s.fset.Position(n.Pos()).Line - 1
				funcs++
				if got > softFuncLines {
					long++
				}
				if got > maxFuncLines {
					over(s.path+" "+n.Name.Name, got, maxFuncLines)
				}
				if p := n.Type.Params.NumFields(); p > maxParams {
					over(s.path+" "+n.Name.Name+" parameters", p, maxParams)
				}
			case *ast.TypeSpec:
				if in, ok := n.Type.(*ast.InterfaceType); ok && in.Methods.NumFields() > maxIfaceMethods {
					over(s.path+" "+n.Name.Name+" methods", in.Methods.NumFields(), maxIfaceMethods)
				}
			}
			return true
		})
	}
	for pkg, n := range pkgCode {
		if n > maxPackageCode {
			over(pkg+" package", n, maxPackageCode)
		}
	}
	if funcs > 0 && float64(long)/float64(funcs) > softFuncShare {
		t.Errorf("%d of %d functions have more than %d lines; at most %.0f %% may", long, funcs, softFuncLines, softFuncShare*100)
	}
	for key := range allowed {
		if !used[key] {
			t.Errorf("%s: the line %q is no longer needed", budgetFile, key)
		}
	}
}

// readBudget reads lines of the form "KEY: NUMBER  reason".
func readBudget(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	text, err := os.ReadFile(budgetFile)
	if os.IsNotExist(err) {
		return out
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndex(line, ": ")
		if i < 0 {
			t.Fatalf("%s: %q is not KEY: NUMBER reason", budgetFile, line)
		}
		num, reason, _ := strings.Cut(line[i+2:], " ")
		n, err := strconv.Atoi(num)
		if err != nil || strings.TrimSpace(reason) == "" {
			t.Fatalf("%s: %q is not KEY: NUMBER reason", budgetFile, line)
		}
		out[line[:i]] = n
	}
	return out
}

// codeLines counts lines that hold code: not blank, not comment alone.
func codeLines(s source) int {
	comment := map[int]bool{}
	for _, g := range s.file.Comments {
		for l := s.fset.Position(g.Pos()).Line; l <= s.fset.Position(g.End()).Line; l++ {
			comment[l] = true
		}
	}
	n, line := 0, 0
	for l := range bytes.Lines(s.text) {
		line++
		l = bytes.TrimSpace(l)
		if len(l) > 0 && !(comment[line] && (bytes.HasPrefix(l, []byte("//")) || bytes.HasPrefix(l, []byte("/*")) || bytes.HasPrefix(l, []byte("*")))) {
			n++
		}
	}
	return n
}

func TestNoSleepInTests(t *testing.T) {
	for _, s := range loadSources(t) {
		if !s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Sleep" {
				return true
			}
			if id, ok := sel.X.(*ast.Ident); ok && id.Name == "time" && !inSynctest(s) {
				t.Errorf("%s: time.Sleep in a test: wait on a fact", s.fset.Position(call.Pos()))
			}
			return true
		})
	}
}

// inSynctest lets a file sleep that runs its tests in a synctest bubble, where
// sleeping moves the fake clock and takes no time.
func inSynctest(s source) bool {
	for _, im := range imports(s) {
		if im == "testing/synctest" {
			return true
		}
	}
	return false
}

var (
	mdPath    = regexp.MustCompile("`([A-Za-z0-9_./-]+/[A-Za-z0-9_.-]+\\.(?:go|md|proto|yaml|txt))`")
	rfcAnchor = regexp.MustCompile(`RFC (\d{3,5})`)
)

func TestDocsNameWhatExists(t *testing.T) {
	walkFiles(t, ".md", func(p string, text []byte) {
		for _, m := range mdPath.FindAllSubmatch(text, -1) {
			name := string(m[1])
			if strings.HasPrefix(name, "/") || strings.Contains(name, "NNNN") {
				continue
			}
			_, err1 := os.Stat(name)
			_, err2 := os.Stat(filepath.Join(filepath.Dir(p), name))
			if err1 != nil && err2 != nil {
				t.Errorf("%s names %s, which does not exist", p, name)
			}
		}
	})
}

func TestRFCIndex(t *testing.T) {
	index, err := os.ReadFile("docs/rfc.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, m := range rfcAnchor.FindAllSubmatch(index, -1) {
		known[string(m[1])] = true
	}
	missing := map[string][]string{}
	for _, s := range loadSources(t) {
		for _, m := range rfcAnchor.FindAllSubmatch(s.text, -1) {
			if n := string(m[1]); !known[n] {
				missing[n] = append(missing[n], s.path)
			}
		}
	}
	var nums []string
	for n := range missing {
		nums = append(nums, n)
	}
	sort.Strings(nums)
	for _, n := range nums {
		t.Errorf("RFC %s is named in %s and missing in docs/rfc.md", n, missing[n][0])
	}
}

func walkFiles(t *testing.T, suffix string, visit func(p string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && d.IsDir() && p != "." && strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir
			}
			return err
		}
		if strings.HasSuffix(p, suffix) {
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			visit(p, text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(fmt.Errorf("walking the tree: %w", err))
	}
}
