package enroll

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clrelay/clrelay/cluster/fsm/records"
	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/proto/control"
)

// memory keeps records as the cluster does.
type memory struct {
	mu      sync.Mutex
	table   *records.Table
	changed chan struct{}
	err     error // of every Put
}

func newMemory(t testing.TB) *memory {
	table, ok := records.New(nil, 0)
	if !ok {
		t.Fatal("no table")
	}
	return &memory{table: &table, changed: make(chan struct{})}
}

func (m *memory) Records(prefix string) []control.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.table.List(prefix)
}

func (m *memory) Put(_ context.Context, key string, value []byte, ifVersion uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	_, code := m.table.Put(control.RecordPut{Key: key, Value: value, IfVersion: ifVersion, Delete: value == nil})
	switch code {
	case control.OK:
		close(m.changed)
		m.changed = make(chan struct{})
		return nil
	case control.WrongVersion:
		return ErrConflict
	}
	return fmt.Errorf("code %v", code)
}

func (m *memory) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func quietLog() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// world is a cluster of which mx1 holds ca.key.
type world struct {
	t    *testing.T
	ca   string // folder of the authority
	dir  string // tls_dir of mx1
	kept *memory
	desk *Desk
	door *Door
	addr string
	hash [sha256.Size]byte

	mu     sync.Mutex
	now    time.Time
	living map[string]string
	audits []string
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// nodeDir makes the tls_dir of a node.
func nodeDir(t testing.TB, ca, name string, now func() time.Time, days int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if _, err := pki.Create(pki.CertOptions{Dir: dir, CADir: ca, Name: name, Hosts: []string{"10.0.0.1"}, Days: days, Now: now}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newWorld(t *testing.T, signs bool) *world {
	w := &world{t: t, ca: filepath.Join(t.TempDir(), "ca"), kept: newMemory(t), now: time.Now(), living: map[string]string{"mx1": "alive", "mx2": "alive"}}
	if _, err := pki.CreateCA(pki.CAOptions{Dir: w.ca, Now: w.clock}); err != nil {
		t.Fatal(err)
	}
	w.dir = nodeDir(t, w.ca, "mx1", w.clock, 0)
	if signs {
		copyFile(t, filepath.Join(w.ca, pki.CAKeyFile), filepath.Join(w.dir, pki.CAKeyFile))
	}
	id, err := pki.Open(pki.Options{Dir: w.dir, Now: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	if w.hash, err = pki.ParseHash(id.Standing().Issuer.SHA256); err != nil {
		t.Fatal(err)
	}
	w.desk = &Desk{
		Tokens: &Tokens{Records: w.kept, Now: w.clock}, Identity: id, Dir: w.dir, Self: "mx1", Log: quietLog(), Now: w.clock,
		Standings: func() []Standing { return Standings(w.kept) }, Join: func() []string { return []string{"10.0.0.1:7526"} },
		Living: func(name string) string { w.mu.Lock(); defer w.mu.Unlock(); return w.living[name] },
		Begin: func(_ context.Context, e Entry, r *pki.Request, _ string) (func(error), error) {
			return func(err error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.audits = append(w.audits, fmt.Sprintf("%s %v", r.Name, err == nil))
			}, nil
		},
	}
	w.door = &Door{Desk: w.desk, Log: quietLog(), Now: w.clock}
	l, err := tls.Listen("tcp", "127.0.0.1:0", id.Door("h2"))
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	done := make(chan struct{})
	go func() { w.door.Serve(context.Background(), handshaken{l}); close(done) }()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return w
}

// handshaken is a listener whose connections have their handshakes done, as
// those of the cluster port.
type handshaken struct{ net.Listener }

func (h handshaken) Accept() (net.Conn, error) {
	for {
		c, err := h.Listener.Accept()
		if err != nil || c.(*tls.Conn).Handshake() == nil {
			return c, err
		}
		_ = c.Close()
	}
}

func (w *world) token(want Wanted) Token {
	w.t.Helper()
	want.CA = w.hash
	if want.Uses == 0 {
		want.Uses = 1
	}
	if want.TTL == 0 {
		want.TTL = time.Hour
	}
	tok, _, err := w.desk.Tokens.Create(w.t.Context(), want)
	if err != nil {
		w.t.Fatal(err)
	}
	return tok
}

// join has a machine join, and gives its tls_dir and what it had to wait for.
func (w *world) join(tok Token, name string) (dir string, err error) {
	dir = filepath.Join(w.t.TempDir(), name)
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	var waits error
	err = Join(ctx, Joining{
		Token: tok, Address: w.addr, Name: name, Hosts: []string{"10.0.0.3"}, Dir: dir, Now: w.clock,
		Waits: func(err error) { waits = err; cancel() }, Answered: func([]string) error { return nil },
	})
	if waits != nil {
		return dir, waits
	}
	return dir, err
}

func TestJoin(t *testing.T) {
	w := newWorld(t, true)
	dir, err := w.join(w.token(Wanted{Node: "mx3"}), "mx3")
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.Open(pki.Options{Dir: dir, Now: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	if st := id.Standing(); st.Cert.Name != "mx3" || !slices.Equal(st.Cert.Hosts, []string{"10.0.0.3"}) {
		t.Errorf("standing: %+v", st)
	}
	if !slices.Equal(w.audits, []string{"mx3 true"}) {
		t.Errorf("audits: %v", w.audits)
	}
	for _, r := range w.kept.Records("") {
		if strings.Contains(string(r.Value), "PRIVATE") || strings.Contains(string(r.Value), "secret") {
			t.Errorf("a record holds a secret: %s", r.Value)
		}
	}
}

// What an attacker, or a mistaken operator, may try.
func TestJoinRefuses(t *testing.T) {
	w := newWorld(t, true)
	good := w.token(Wanted{Uses: 100})
	edit := func(f func(*Token)) Token { tok := good; f(&tok); return tok }
	used := w.token(Wanted{})
	if _, err := w.join(used, "mx3"); err != nil {
		t.Fatal(err)
	}
	revoked := w.token(Wanted{})
	if err := w.desk.Tokens.Revoke(t.Context(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		tok  Token
		name string
		want error
		text string
	}{
		{"a wrong secret", edit(func(k *Token) { k.Secret = NewToken(w.hash).Secret }), "mx4", ErrRefused, "the token is not valid here"},
		{"an unknown token", NewToken(w.hash), "mx4", ErrRefused, "the token is not valid here"},
		{"a revoked one", revoked, "mx4", ErrRefused, "the token is not valid here"},
		{"an empty ID", edit(func(k *Token) { k.ID = "" }), "mx4", ErrRefused, "the token is not valid here"},
		{"a prefix of an ID", edit(func(k *Token) { k.ID = k.ID[:4] }), "mx4", ErrRefused, "the token is not valid here"},
		{"another record's key", edit(func(k *Token) { k.ID = "../cert/mx1" }), "mx4", ErrRefused, "the token is not valid here"},
		{"an empty secret", edit(func(k *Token) { k.Secret = "" }), "mx4", ErrRefused, "the token is not valid here"},
		{"one that is used up", used, "mx4", ErrRefused, "used up, last by mx3"},
		{"another name", w.token(Wanted{Node: "mx5"}), "mx4", ErrRefused, "it is for the node mx5"},
		{"a living node's name", good, "mx2", ErrConflict, "mx2 is a node of the cluster already"},
		{"the answering node's name", good, "mx1", ErrConflict, "mx1 is a node of the cluster already"},
		{"another authority", edit(func(k *Token) { k.CA[0] ^= 1 }), "mx4", ErrStranger, "was not told the token"},
	} {
		dir, err := w.join(c.tok, c.name)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %v with %q", c.what, err, c.want, c.text)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: something was written", c.what)
		}
		w.pass(time.Minute) // for the count of wrong secrets
	}
	if _, err := w.join(good, "mx4"); err != nil {
		t.Errorf("the good one: %v", err)
	}
	w.pass(2 * time.Hour)
	if _, err := w.join(good, "mx6"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired one: %v", err)
	}
	if len(w.audits) != 2 {
		t.Errorf("audits: %v", w.audits)
	}
}

// Who has no ca.key says who has.
func TestWhoCanSign(t *testing.T) {
	w := newWorld(t, false)
	if _, _, err := w.desk.Signers(); err == nil || !strings.Contains(err.Error(), "ca.key") {
		t.Errorf("with none: %v", err)
	}
	tok := w.token(Wanted{})
	if _, err := w.join(tok, "mx3"); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "nor does any other node") {
		t.Errorf("joining with none: %v", err)
	}
	other := nodeDir(t, w.ca, "mx2", w.clock, 0)
	copyFile(t, filepath.Join(w.ca, pki.CAKeyFile), filepath.Join(other, pki.CAKeyFile))
	k := w.keeper(other, "mx2")
	if err := k.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, nodes, err := w.desk.Signers(); err != nil || !slices.Equal(nodes, []string{"mx2"}) {
		t.Errorf("signers: %v, %v", nodes, err)
	}
	if _, err := w.join(tok, "mx3"); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "ask mx2") {
		t.Errorf("joining with mx2 there: %v", err)
	}
	if e := w.desk.Tokens.List()[0]; e.Left() != 1 {
		t.Errorf("a use was spent: %+v", e)
	}
}

// The same request again, whose answer was lost, is the same use; another one is
// not, and of many at the same time one gets the last use.
func TestUsesAreCounted(t *testing.T) {
	w := newWorld(t, true)
	request := func(name string) *pki.Request {
		_, der, err := pki.NewRequest(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := pki.ParseRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	tok, first := w.token(Wanted{Uses: 3}), request("mx3")
	for range 3 {
		if err := w.desk.Tokens.Spend(t.Context(), tok.ID, tok.Secret, first); err != nil {
			t.Fatal(err)
		}
	}
	if e := w.desk.Tokens.List()[0]; e.Left() != 2 {
		t.Fatalf("the same request three times: %+v", e)
	}
	var group sync.WaitGroup
	won := make(chan string, 20)
	for i := range 20 {
		r := request(fmt.Sprintf("mx%d", 10+i))
		group.Go(func() {
			err := w.desk.Tokens.Spend(t.Context(), tok.ID, tok.Secret, r)
			switch {
			case err == nil:
				won <- r.Name
			case !errors.Is(err, ErrEnded) && !errors.Is(err, ErrConflict):
				t.Error(err)
			}
		})
	}
	group.Wait()
	close(won)
	var names []string
	for n := range won {
		names = append(names, n)
	}
	e := w.desk.Tokens.List()[0]
	if len(names) > 2 || len(e.Used) != 1+len(names) || len(e.Used) > e.Uses {
		t.Errorf("%v got one of two uses; the record says %+v", names, e)
	}
	// What was revoked is not spent again by who used it before.
	if err := w.desk.Tokens.Revoke(t.Context(), tok.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.desk.Tokens.Spend(t.Context(), tok.ID, tok.Secret, first); !errors.Is(err, ErrDenied) {
		t.Errorf("a revoked one: %v", err)
	}
}

func TestTokens(t *testing.T) {
	w := newWorld(t, true)
	for _, want := range []Wanted{
		{Uses: 0, TTL: time.Hour}, {Uses: 101, TTL: time.Hour}, {Uses: 1, TTL: 31 * 24 * time.Hour}, {Uses: 1, TTL: -1}, {Uses: 1, TTL: time.Hour, Node: "../x"},
	} {
		if _, _, err := w.desk.Tokens.Create(t.Context(), want); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", want, err)
		}
	}
	tok := w.token(Wanted{})
	got, addr, err := SplitJoin(tok.Text() + "@10.0.0.1:7525\n")
	if err != nil || got != tok || addr != "10.0.0.1:7525" {
		t.Errorf("%v, %q, %v", got, addr, err)
	}
	if text := fmt.Sprintf("%v %s", tok, tok); strings.Contains(text, tok.Secret) {
		t.Errorf("printed with its secret: %s", text)
	}
	text := tok.Text()
	for _, wrong := range []string{"", "R1", "R2" + text[2:], text[:len(text)-1], text + "a", strings.ToUpper(text), text + "." + text, strings.Repeat("a", 1<<20), text + "@"} {
		if _, _, err := SplitJoin(wrong); !errors.Is(err, ErrToken) || strings.Contains(err.Error(), tok.Secret) {
			t.Errorf("%.60q: %v", wrong, err)
		}
	}
	if err := w.desk.Tokens.Revoke(t.Context(), "nosuch"); !errors.Is(err, ErrNoToken) {
		t.Errorf("revoking what is not there: %v", err)
	}
	w.pass(time.Hour + keepEnded)
	w.token(Wanted{})
	if n := len(w.desk.Tokens.List()); n != 1 {
		t.Errorf("%d tokens are kept, want the new one alone", n)
	}
}

// knock opens a connection as a machine does that knows the authority.
func (w *world) knock() *tls.Conn {
	w.t.Helper()
	c, err := tls.Dial("tcp", w.addr, pki.Pinned(w.hash, w.clock))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Silent and slow clients hold places, and give way.
func TestSlowClientsGiveWay(t *testing.T) {
	w := newWorld(t, true)
	var slow []*tls.Conn
	for i := range 3 * maxAsking {
		c := w.knock()
		if i%2 == 0 {
			if _, err := c.Write([]byte{0, 0}); err != nil {
				t.Fatal(err)
			}
		}
		slow = append(slow, c)
	}
	if _, err := w.join(w.token(Wanted{}), "mx3"); err != nil {
		t.Fatalf("behind %d silent clients: %v", len(slow), err)
	}
	if _, err := slow[0].Read(make([]byte, 1)); err == nil {
		t.Error("the first one is still served")
	}
}

// What is no message ends the talk without an answer.
func TestGarbage(t *testing.T) {
	w := newWorld(t, true)
	frame := func(n uint32, text string) []byte { return append(binary.BigEndian.AppendUint32(nil, n), text...) }
	for what, text := range map[string][]byte{
		"a huge length":  frame(1<<31, "{}"),
		"no JSON":        frame(5, "hello"),
		"HTTP":           []byte("GET / HTTP/1.1\r\n\r\n"),
		"a long secret":  frame(uint32(len(`{"secret":""}`)+300), `{"secret":"`+strings.Repeat("a", 300)+`"}`),
		"a huge request": frame(uint32(len(`{"request":""}`)+16<<10), `{"request":"`+strings.Repeat("A", 16<<10)+`"}`),
	} {
		c := w.knock()
		if _, err := c.Write(text); err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(c); len(got) != 0 {
			t.Errorf("%s: answered with %q", what, got)
		}
	}
}

// After some wrong secrets an address waits, right ones or not; others do not.
func TestGuessing(t *testing.T) {
	w := newWorld(t, true)
	good := w.token(Wanted{Uses: 10})
	bad := good
	bad.Secret = NewToken(w.hash).Secret
	denied := 0
	for {
		_, err := w.join(bad, "mx3")
		if !errors.Is(err, ErrRefused) {
			if !strings.Contains(err.Error(), "wait a minute") {
				t.Fatal(err)
			}
			break
		}
		if denied++; denied > failBurst {
			t.Fatalf("%d guesses were answered", denied)
		}
	}
	if denied != failBurst {
		t.Errorf("%d guesses were answered, want %d", denied, failBurst)
	}
	if _, err := w.join(good, "mx3"); err == nil {
		t.Error("the right one after too many wrong ones was let in")
	}
	if !w.door.may(sourceOf(&net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 1})) {
		t.Error("another address waits as well")
	}
	w.pass(time.Minute)
	if _, err := w.join(good, "mx3"); err != nil {
		t.Errorf("after a minute: %v", err)
	}
	for i := range 2 * maxSources {
		w.door.failed(sourceOf(&net.TCPAddr{IP: net.IPv4(10, 1, byte(i>>8), byte(i)), Port: 1}))
	}
	if n := len(w.door.fails); n > maxSources {
		t.Errorf("%d addresses are kept", n)
	}
}

// A machine that does not hear the answer asks again with the same key, and
// costs no second use.
func TestLostAnswer(t *testing.T) {
	w := newWorld(t, true)
	tok := w.token(Wanted{})
	_, der, err := pki.NewRequest("mx3", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		a, err := w.desk.enroll(t.Context(), "10.0.0.3:1", ask{ID: tok.ID, Secret: tok.Secret, Request: der})
		if err != nil || a.Code != codeOK {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	_, other, err := pki.NewRequest("mx3", nil)
	if err != nil {
		t.Fatal(err)
	}
	if a, _ := w.desk.enroll(t.Context(), "10.0.0.3:1", ask{ID: tok.ID, Secret: tok.Secret, Request: other}); a.Code != codeDenied {
		t.Errorf("another key: %+v", a)
	}
	// While the cluster cannot decide nobody gets one.
	w.kept.mu.Lock()
	w.kept.err = errors.New("the cluster has no leader")
	w.kept.mu.Unlock()
	if a, _ := w.desk.enroll(t.Context(), "10.0.0.3:1", ask{ID: tok.ID, Secret: tok.Secret, Request: der}); a.Code != codeLater || a.Cert != nil {
		t.Errorf("without a leader: %+v", a)
	}
}

func FuzzReadAsk(f *testing.F) {
	var b bytes.Buffer
	if err := send(&b, ask{ID: "abcdefgh", Secret: "s", Request: []byte{1, 2}}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := readAsk(bytes.NewReader(text))
		if err == nil && (len(a.Request) > pki.MaxRequest || len(a.Secret) > maxTokenLen || len(a.ID) > maxTokenLen) {
			t.Errorf("passed: %+v", a)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add(NewToken([32]byte{1}).Text() + "@mx1:7525")
	f.Add("R1...@")
	f.Fuzz(func(t *testing.T, text string) {
		tok, addr, err := SplitJoin(text)
		if err != nil {
			return
		}
		if again, _, err := SplitJoin(tok.Text() + "@" + addr); err != nil || again != tok {
			t.Errorf("%q does not come back: %v, %v", text, again, err)
		}
	})
}

func certOf(t testing.TB, dir string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, pki.NodeFile))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
