package enrol

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/cluster/enroll"
	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config"
)

// machine writes node.yaml of a machine and gives its path and tls_dir.
func machine(t *testing.T, cluster string) (path, tls string) {
	t.Helper()
	dir := t.TempDir()
	path, tls = filepath.Join(dir, "node.yaml"), filepath.Join(dir, "tls")
	text := fmt.Sprintf("node: mx3\nhostname: mx3.example.edu\ndata_dir: %s/data\nsmtp: [{listen: \"127.0.0.1:0\"}]\ntls_dir: %s\n%s", dir, tls, cluster)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, tls
}

const member = "cluster: {listen: 127.0.0.1:17525, gossip: 127.0.0.1:17526}\n"

// Before the token is used it is seen whether what comes can be kept.
func TestJoinIsRefusedBeforeItBegins(t *testing.T) {
	// Nobody may be asked.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	go func() {
		if c, err := l.Accept(); err == nil {
			_ = c.Close()
			close(asked)
		}
	}()
	defer l.Close()
	good := enroll.NewToken([32]byte{1}).Text() + "@" + l.Addr().String()
	for _, c := range []struct {
		what    string
		cluster string
		spoil   func(tls string) error
		asked   Asked
		code    int // of the exit; 0: none
		text    string
	}{
		{what: "no token", cluster: member},
		{what: "both", cluster: member, asked: Asked{Join: good, File: "x"}, code: cmdline.ExitUsage, text: "either"},
		{what: "no cluster section", asked: Asked{Join: good}, code: cmdline.ExitConfig, text: "cluster section"},
		{what: "no token at all", cluster: member, asked: Asked{Join: "hello"}, code: cmdline.ExitUsage, text: "R1."},
		{what: "no address", cluster: member, asked: Asked{Join: strings.Split(good, "@")[0]}, code: cmdline.ExitUsage, text: "@HOST:PORT"},
		{what: "no file", cluster: member, asked: Asked{File: "/nonexistent/token"}, code: cmdline.ExitFailed, text: "--join-file"},
		{what: "another authority", cluster: member, asked: Asked{Join: good}, code: cmdline.ExitConflict, text: "another authority", spoil: func(tls string) error {
			_, err := pki.CreateCA(pki.CAOptions{Dir: tls})
			return err
		}},
		{what: "nowhere to write", cluster: member, asked: Asked{Join: good}, code: cmdline.ExitFailed, text: "tls_dir", spoil: func(tls string) error {
			return os.WriteFile(tls, nil, 0o600)
		}},
		{what: "a certificate is there", cluster: member, asked: Asked{File: "/nonexistent/token"}, spoil: func(tls string) error {
			_, err := pki.CreateCA(pki.CAOptions{Dir: tls})
			if err == nil {
				_, err = pki.Create(pki.CertOptions{Dir: tls, Name: "mx3"})
			}
			return err
		}},
	} {
		path, tls := machine(t, c.cluster)
		if c.spoil != nil {
			if err := c.spoil(tls); err != nil {
				t.Fatal(err)
			}
		}
		c.asked.Config, c.asked.Stderr = path, new(strings.Builder)
		err := Join(t.Context(), c.asked)
		var exit *cmdline.ExitError
		var usage *cmdline.UsageError
		code := 0
		switch {
		case errors.As(err, &exit):
			code = exit.Code
		case errors.As(err, &usage):
			code = cmdline.ExitUsage
		case err != nil:
			code = cmdline.ExitFailed
		}
		if code != c.code || err != nil && (!strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), strings.Split(good, ".")[3][:32])) {
			t.Errorf("%s: code %d, %v; want %d with %q", c.what, code, err, c.code, c.text)
		}
	}
	select {
	case <-asked:
		t.Error("somebody was asked")
	default:
	}
}

// What a machine was told of the others counts where node.yaml names none.
func TestKeptAddresses(t *testing.T) {
	path, tls := machine(t, member)
	if _, err := pki.CreateCA(pki.CAOptions{Dir: tls}); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Create(pki.CertOptions{Dir: tls, Name: "mx3"}); err != nil {
		t.Fatal(err)
	}
	if _, err := config.LoadNode(path); err == nil || !strings.Contains(err.Error(), "--join") {
		t.Errorf("with no address: %v", err)
	}
	if err := os.WriteFile(filepath.Join(tls, config.JoinFile), []byte("10.0.0.1:7526\nnonsense:x\nmx2.internal:7000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := config.LoadNode(path)
	if err != nil || len(n.Cluster.Join) != 2 || n.Cluster.Join[1].String() != "mx2.internal:7000" {
		t.Errorf("%+v, %v", n, err)
	}
}

// A renewal that was cut off between certificate and key does not keep the node
// from starting.
func TestCutOffRenewal(t *testing.T) {
	path, tls := machine(t, "cluster: {listen: 127.0.0.1:17525, gossip: 127.0.0.1:17526, join: [10.0.0.1]}\n")
	ca, next := filepath.Join(t.TempDir(), "ca"), filepath.Join(t.TempDir(), "next")
	if _, err := pki.CreateCA(pki.CAOptions{Dir: ca}); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{tls, next} {
		if _, err := pki.Create(pki.CertOptions{Dir: dir, CADir: ca, Name: "mx3"}); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{pki.NodeFile: pki.NodeFile, pki.NodeKeyFile: pki.NodeKeyFile + ".new"} {
		text, err := os.ReadFile(filepath.Join(next, from))
		if err == nil {
			err = os.WriteFile(filepath.Join(tls, to), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := config.LoadNode(path); err == nil {
		t.Fatal("a torn pair passed: the test shows nothing")
	}
	if err := Join(t.Context(), Asked{Config: path, Stderr: new(strings.Builder)}); err != nil {
		t.Fatal(err)
	}
	if _, err := config.LoadNode(path); err != nil {
		t.Error(err)
	}
}
