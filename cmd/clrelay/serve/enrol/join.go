package enrol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clrelay/clrelay/cluster/enroll"
	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/cluster/raftnode/store"
	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/config"
)

// joinTime is how long a machine tries to get its certificate.
const joinTime = 5 * time.Minute

// maxTokenFile bounds the file of a token.
const maxTokenFile = 4 << 10

// Asked is what "clrelay serve" was told.
type Asked struct {
	Config string
	Join   string // TOKEN@HOST:PORT
	File   string // that holds one
	Stderr io.Writer
}

// Join gets this machine its certificate if it was told a token and has none.
// What a crash has left of a renewal it ends in any case.
func Join(ctx context.Context, a Asked) error {
	if a.Join != "" && a.File != "" {
		return &cmdline.UsageError{Command: "clrelay serve", Err: errors.New("either --join or --join-file")}
	}
	n, err := config.LoadJoining(a.Config)
	told := a.Join != "" || a.File != ""
	switch {
	case err != nil && told:
		return err
	case err != nil || n.Cluster == nil && !told:
		return nil // the start itself says what is wrong
	case n.Cluster != nil:
		err = pki.Finish(string(n.TLSDir))
	}
	if err != nil || !told {
		return err
	}
	log := slog.New(slog.NewTextHandler(a.Stderr, nil)).With("node", string(n.Name))
	if n.Log.Format == "json" {
		log = slog.New(slog.NewJSONHandler(a.Stderr, nil)).With("node", string(n.Name))
	}
	if n.Cluster == nil {
		return cmdline.Exitf(cmdline.ExitConfig, "%s: a machine that joins a cluster needs a cluster section: listen and gossip, at least", a.Config)
	}
	dir := string(n.TLSDir)
	if _, err := os.Lstat(filepath.Join(dir, pki.NodeFile)); err == nil {
		log.Info("this machine has a certificate: the join token is not looked at", "tls_dir", dir)
		return nil
	}
	text, err := a.text()
	if err != nil {
		return err
	}
	token, addr, err := enroll.SplitJoin(text)
	if err != nil {
		return &cmdline.UsageError{Command: "clrelay serve", Err: err}
	}
	if err := ready(dir, token); err != nil {
		return err
	}
	return get(ctx, n, token, addr, log)
}

func (a *Asked) text() (string, error) {
	if a.File == "" {
		return a.Join, nil
	}
	f, err := os.Open(a.File)
	if err != nil {
		return "", fmt.Errorf("--join-file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTokenFile))
	if err != nil {
		return "", fmt.Errorf("--join-file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// ready sees that what comes can be kept, before a use of the token is spent.
func ready(dir string, token enroll.Token) error {
	infos, err := pki.Describe(filepath.Join(dir, pki.CAFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("tls_dir: %w", err)
	case !slices.ContainsFunc(infos, func(i pki.Info) bool { return i.SHA256 == fmt.Sprintf("%x", token.CA) }):
		return cmdline.Exitf(cmdline.ExitConflict, "%s is of another authority than the token: move it away, or take a token of that cluster", filepath.Join(dir, pki.CAFile))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("tls_dir: %w", err)
	}
	f, err := os.CreateTemp(dir, ".join-")
	if err != nil {
		return fmt.Errorf("tls_dir: a certificate cannot be written there, and the token was not used: %w", err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func get(ctx context.Context, n *config.Node, token enroll.Token, addr string, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	said := ""
	err := enroll.Join(ctx, enroll.Joining{
		Token: token, Address: addr, Name: string(n.Name), Hosts: hosts(n.Cluster), Dir: string(n.TLSDir), Now: time.Now,
		Waits: func(err error) {
			if err.Error() != said {
				log.Warn("no certificate yet; it is tried again", "from", addr, "error", err)
			}
			said = err.Error()
		},
		Answered: func(join []string) error {
			return store.WriteFile(string(n.TLSDir), config.JoinFile, []byte(strings.Join(join, "\n")+"\n"))
		},
	})
	code := cmdline.ExitFailed
	switch {
	case err == nil:
		log.Info("this machine got its certificate", "from", addr, "token", token.ID, "tls_dir", string(n.TLSDir))
		return nil
	case errors.Is(err, enroll.ErrConflict):
		code = cmdline.ExitConflict
	case errors.Is(err, enroll.ErrRefused), errors.Is(err, enroll.ErrStranger):
		code = cmdline.ExitDenied
	case ctx.Err() != nil:
		code = cmdline.ExitUnreachable
	}
	return &cmdline.ExitError{Code: code, Err: fmt.Errorf("joining by a token: %s", enroll.Plain(err))}
}

// hosts are the addresses of a node that go into its certificate.
func hosts(m *config.Membership) (out []string) {
	for _, a := range []string{m.Address(), m.GossipAddress()} {
		host, _, err := net.SplitHostPort(a)
		if err != nil || host == "" || slices.Contains(out, host) {
			continue
		}
		if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
			continue
		}
		out = append(out, host)
	}
	return out
}
