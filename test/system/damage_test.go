package system

import (
	"bytes"
	le "encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clrelay/clrelay/test/peers"
	"github.com/clrelay/clrelay/test/relayproc"
)

// damaged is a stopped relay with a queue of several files, and what is in it.
type damaged struct {
	relay *relayproc.Relay
	hop   *peers.Hop
	away  atomic.Bool
	want  map[string]string // content by sender
}

const damagedMessages = 26

// newDamaged fills a relay's spool with messages of 3 MB each, of which every
// line tells whose it is, and stops it.
func newDamaged(t *testing.T) *damaged {
	t.Helper()
	binary(t)
	d := &damaged{want: map[string]string{}}
	d.hop = startHop(t, &peers.Hop{Answer: func(line string) string {
		if d.away.Load() && strings.HasPrefix(line, "RCPT") {
			return "450 4.2.1 Not now"
		}
		return ""
	}})
	d.away.Store(true)
	d.relay = startRelay(t, relayproc.Options{Cluster: fmt.Sprintf(strings.Replace(toSink, "[1s, 2s, 5s]", "[1h]", 1), d.hop.Addr())})
	c := greeted(t, d.relay.SMTP)
	for i := range damagedMessages {
		sender := fmt.Sprintf("sender%02d@client.test", i)
		d.want[sender] = note(fmt.Sprintf("number %02d", i)) + strings.Repeat(fmt.Sprintf("content %02d of a message that is long enough to fill files\r\n", i), 50_000)
		c.envelope("<"+sender+">", fmt.Sprintf("<rcpt%02d@x.test>", i))
		c.bdat(d.want[sender], 1<<20)
	}
	eventually(t, 30*time.Second, "all are deferred", func() bool { return summary(t, d.relay).Deferred == damagedMessages })
	if err := d.relay.Stop(); err != nil {
		t.Fatal(err)
	}
	return d
}

// restart delivers what is left and gives the senders whose mail is at the
// hop and the senders who got a report.
func (d *damaged) restart(t *testing.T) (arrived, reported []string) {
	t.Helper()
	if err := d.relay.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(d.hop.Mails()) != 0 {
		t.Error("mail went out before it was due")
	}
	d.away.Store(false)
	d.relay.CLI("queue", "retry", "--everything")
	eventually(t, 60*time.Second, "nothing but held recipients is queued", func() bool {
		s := summary(t, d.relay)
		return s.Active == 0 && s.Deferred == 0
	})
	for _, m := range d.hop.Mails() {
		if m.Sender() == "" {
			reported = append(reported, m.Rcpts()...)
			continue
		}
		arrived = append(arrived, m.Sender())
		if string(peers.StripTrace(m.Data)) != d.want[m.Sender()] {
			t.Errorf("the mail of %s came out damaged", m.Sender())
		}
	}
	slices.Sort(arrived)
	if n := len(arrived); n != len(slices.Compact(arrived)) {
		t.Errorf("duplicates among %q", arrived)
	}
	return arrived, reported
}

// lost gives the senders whose mail is missing.
func (d *damaged) lost(arrived []string) []string {
	var out []string
	for sender := range d.want {
		if !slices.Contains(arrived, sender) {
			out = append(out, sender)
		}
	}
	slices.Sort(out)
	return out
}

// files gives the log's files with their contents.
func (d *damaged) files(t *testing.T) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	names, err := filepath.Glob(filepath.Join(d.relay.Data, "log", "*.wal"))
	if err != nil || len(names) < 2 {
		t.Fatalf("log files: %q (%v)", names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = text
	}
	return out
}

// sealed gives the file that was filled first: it has a footer.
func (d *damaged) sealed(t *testing.T) string {
	t.Helper()
	for name, text := range d.files(t) {
		if bytes.Contains(text, []byte("content 00 of")) {
			return name
		}
	}
	t.Fatal("no file holds the first message")
	return ""
}

func flip(t *testing.T, name string, offset int) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], int64(offset)); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], int64(offset)); err != nil {
		t.Fatal(err)
	}
}

// check runs `spool check` and wants it to find something in the file.
func (d *damaged) check(t *testing.T, file string) {
	t.Helper()
	stdout, stderr, code := d.relay.CLI("spool", "check", d.relay.Data)
	if code != 8 || !regexp.MustCompile(regexp.QuoteMeta(filepath.Base(file))+`\D.*\d`).MatchString(stdout+stderr) {
		t.Errorf("spool check: exit code %d, want 8 and a place in %s\n%s%s", code, file, stdout, stderr)
	}
}

// export runs `spool export` and gives the senders whose messages it wrote
// whole.
func (d *damaged) export(t *testing.T, code int) []string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "export")
	if stdout, stderr, got := d.relay.CLI("spool", "export", d.relay.Data, to); got != code {
		t.Errorf("spool export: exit code %d, want %d\n%s%s", got, code, stdout, stderr)
	}
	files, err := filepath.Glob(filepath.Join(to, "*.eml"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for sender, content := range d.want {
			if bytes.HasSuffix(text, []byte(content)) {
				out = append(out, sender)
			}
		}
	}
	slices.Sort(out)
	return out
}

// reported checks that the log names the file and a place in it.
func (d *damaged) reported(t *testing.T, file string) {
	t.Helper()
	if !regexp.MustCompile(regexp.QuoteMeta(filepath.Base(file)) + `(:\d+|\D.*offset\D*\d+)`).MatchString(fullLog(t, d.relay)) {
		t.Errorf("the log names no place in %s:\n%s", file, slogOnly(fullLog(t, d.relay)))
	}
}

func fullLog(t *testing.T, r *relayproc.Relay) string {
	t.Helper()
	text, err := os.ReadFile(r.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// slogOnly leaves out the lines about messages.
func slogOnly(log string) string {
	var out strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, " event=") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// TestDamage breaks the files of a stopped relay in one way after the other.
// Each time the relay starts, says what it found where, and nothing but what
// was hit is missing.
func TestDamage(t *testing.T) {
	t.Parallel()
	d := newDamaged(t)
	base := filepath.Join(d.relay.Dir, "base")
	run(t, "cp", "-a", "--sparse=always", d.relay.Data, base)
	rng := rand.New(rand.NewPCG(seed(t), 3))
	all := d.lost(nil)

	each := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			if err := os.RemoveAll(d.relay.Data); err != nil {
				t.Fatal(err)
			}
			run(t, "cp", "-a", "--sparse=always", base, d.relay.Data)
			if err := os.WriteFile(d.relay.LogPath(), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			d.hop.Forget()
			d.away.Store(true)
			t.Cleanup(func() {
				if err := d.relay.Stop(); err != nil {
					t.Error(err)
				}
			})
			test(t)
		})
	}

	each("none", func(t *testing.T) {
		if stdout, stderr, code := d.relay.CLI("spool", "check", d.relay.Data); code != 0 {
			t.Errorf("spool check: exit code %d\n%s%s", code, stdout, stderr)
		}
		if got := d.export(t, 0); !slices.Equal(got, all) {
			t.Errorf("export lacks %q", d.lost(got))
		}
		if arrived, reported := d.restart(t); !slices.Equal(arrived, all) || reported != nil {
			t.Errorf("missing: %q, reported: %q", d.lost(arrived), reported)
		}
	})
	each("a bit of a body", func(t *testing.T) {
		file := d.sealed(t)
		text := d.files(t)[file]
		places := regexp.MustCompile(`content 05 of`).FindAllIndex(text, -1)
		flip(t, file, places[rng.IntN(len(places))][0])
		d.check(t, file)
		if got := d.lost(d.export(t, 7)); !slices.Equal(got, []string{"sender05@client.test"}) {
			t.Errorf("export lacks %q", got)
		}
		arrived, told := d.restart(t)
		if lost := d.lost(arrived); !slices.Equal(lost, []string{"sender05@client.test"}) || !slices.Equal(told, lost) {
			t.Errorf("missing: %q, told: %q", lost, told)
		}
		d.reported(t, file)
	})
	each("a bit of an envelope", func(t *testing.T) {
		last := fmt.Sprintf("rcpt%02d@x.test", damagedMessages-1)
		hit := 0
		var file string
		for name, text := range d.files(t) {
			for _, at := range regexp.MustCompile(last).FindAllIndex(text, -1) {
				flip(t, name, at[0])
				file, hit = name, hit+1
			}
		}
		if hit == 0 {
			t.Skip("envelopes are not stored as text")
		}
		d.check(t, file)
		lost := fmt.Sprintf("sender%02d@client.test", damagedMessages-1)
		arrived, _ := d.restart(t)
		if got := d.lost(arrived); !slices.Equal(got, []string{lost}) {
			t.Errorf("missing: %q, want %s alone", got, lost)
		}
		d.reported(t, file)
	})
	each("the footer", func(t *testing.T) {
		file := d.sealed(t)
		text := d.files(t)[file]
		trailer := text[len(text)-96:] // it says where the footer is
		begin, length := le.LittleEndian.Uint64(trailer[32:]), le.LittleEndian.Uint64(trailer[40:])
		if length == 0 {
			t.Fatal("there is no footer")
		}
		flip(t, file, int(begin)+rng.IntN(int(length)))
		d.check(t, file)
		if arrived, _ := d.restart(t); !slices.Equal(arrived, all) {
			t.Errorf("missing: %q", d.lost(arrived))
		}
		d.reported(t, file)
	})
	each("the trailer", func(t *testing.T) {
		file := d.sealed(t)
		flip(t, file, len(d.files(t)[file])-1-rng.IntN(96))
		if arrived, _ := d.restart(t); !slices.Equal(arrived, all) {
			t.Errorf("missing: %q", d.lost(arrived))
		}
	})
	each("half a file", func(t *testing.T) {
		file := d.sealed(t)
		text := d.files(t)[file]
		if err := os.Truncate(file, int64(len(text)/2)); err != nil {
			t.Fatal(err)
		}
		d.check(t, file)
		arrived, _ := d.restart(t)
		for _, sender := range d.lost(arrived) {
			if number := sender[len("sender"):][:2]; !bytes.Contains(text[len(text)/2:], []byte("content "+number+" of")) {
				t.Errorf("%s is missing and was not in that half", sender)
			}
		}
		for _, sender := range arrived {
			if number := sender[len("sender"):][:2]; bytes.Contains(text[len(text)/2:], []byte("content "+number+" of")) {
				t.Errorf("%s arrived and was in the lost half", sender)
			}
		}
		d.reported(t, file)
	})
	each("an empty file", func(t *testing.T) {
		file := d.sealed(t)
		text := d.files(t)[file]
		if err := os.Truncate(file, 0); err != nil {
			t.Fatal(err)
		}
		d.check(t, file)
		arrived, _ := d.restart(t)
		for _, sender := range d.lost(arrived) {
			if number := sender[len("sender"):][:2]; !bytes.Contains(text, []byte("content "+number+" of")) {
				t.Errorf("%s is missing and was not in that file", sender)
			}
		}
		if !strings.Contains(slogOnly(fullLog(t, d.relay)), filepath.Base(file)) {
			t.Errorf("the log does not name %s:\n%s", file, slogOnly(fullLog(t, d.relay)))
		}
	})
	each("foreign files", func(t *testing.T) {
		dir := filepath.Join(d.relay.Data, "log")
		foreign := filepath.Join(dir, "00000099.wal")
		junk := make([]byte, 100_000)
		for i := range junk {
			junk[i] = byte(rng.IntN(256))
		}
		writeFile(t, foreign, string(junk))
		writeFile(t, filepath.Join(dir, "notes.txt"), "not mine")
		if arrived, _ := d.restart(t); !slices.Equal(arrived, all) {
			t.Errorf("missing: %q", d.lost(arrived))
		}
		for _, name := range []string{foreign, filepath.Join(dir, "notes.txt")} {
			if _, err := os.Stat(name); err != nil {
				t.Errorf("what is not the relay's was touched: %v", err)
			}
		}
		if got, err := os.ReadFile(foreign); err != nil || !bytes.Equal(got, junk) {
			t.Errorf("%s was changed (%v)", foreign, err)
		}
		if !strings.Contains(slogOnly(fullLog(t, d.relay)), "00000099.wal") {
			t.Errorf("the log does not name the foreign file:\n%s", slogOnly(fullLog(t, d.relay)))
		}
	})
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}
