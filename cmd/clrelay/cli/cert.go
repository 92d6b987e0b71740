package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clrelay/clrelay/cluster/pki"
	"github.com/clrelay/clrelay/cmd/clrelay/cli/certs"
	"github.com/clrelay/clrelay/internal/cmdline"
	"github.com/clrelay/clrelay/internal/roles"
)

// certWarning is how long before its end a certificate is spoken of.
const certWarning = 30 * 24 * time.Hour

// certInfo is a certificate as it is printed.
type certInfo struct {
	File      string    `json:"file"`
	Kind      string    `json:"kind"` // ca, node, admin, or empty
	Name      string    `json:"name"`
	Hosts     []string  `json:"hosts"`
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	SHA256    string    `json:"sha256"`
	Role      string    `json:"role"`    // of an operator; empty: none stands there, which is admin
	Content   bool      `json:"content"` // of an operator: may read what is written in messages
}

// certMade is what a creation prints.
type certMade struct {
	Files []string `json:"files"`
	Cert  certInfo `json:"cert"`
}

// certFlags are what a creation is told.
type certFlags struct {
	dir, caDir, name string
	hosts            []string
	days             int
	role             string
	content          bool
}

// certCommand makes and shows the certificates of a cluster.
func (a *App) certCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "Make the certificates of a cluster",
		Long: `Make the certificates by which the nodes of a cluster and its operators know
each other, and look after those of a running cluster: status, renew and
rotate-ca ask it, the others work on files alone and need no running relay.

Make the authority once, then a certificate for every node and for every
operator, each in a folder of its own:

    clrelay cert create-ca    --dir ca
    clrelay cert create-node  --ca-dir ca --dir mx1 --name mx1 --host 10.0.0.1
    clrelay cert create-admin --ca-dir ca --dir ops

A node's folder goes to that machine as its tls_dir, an operator's is what
--tls-dir names. ca.key goes nowhere: who holds it can be any node. Where it is
on a node all the same, nodes renew their certificates by themselves and new
machines can join by a token (clrelay cluster join-token). These commands never
overwrite a file. To renew a certificate by hand make a new one in an empty
folder, move the files over the old ones and reload the relay (SIGHUP).`,
	}
	cmd.AddCommand(a.certCreateCA(), a.certCreate(pki.Node), a.certCreate(pki.Admin), a.certShow())
	cmd.AddCommand(certs.Commands(a.console(), a.with)...)
	return cmd
}

func (a *App) certCreateCA() *cobra.Command {
	f := certFlags{}
	c := &cobra.Command{
		Use:   "create-ca --dir DIR",
		Short: "Make the certificate authority of a cluster",
		Long: `Make the certificate authority of a cluster: ca.crt, which every node and
operator needs, and ca.key, which signs their certificates. Keep ca.key secret,
and not on the nodes, or on as few as possible (docs/security.md).`,
		Example: "clrelay cert create-ca --dir ca",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.dir == "" {
				return cmdline.Usagef(cmd.CommandPath(), "--dir is missing: the folder to make the authority in")
			}
			if f.days < 1 {
				return cmdline.Usagef(cmd.CommandPath(), "--days %d: from 1 on", f.days)
			}
			m, err := pki.CreateCA(pki.CAOptions{Dir: f.dir, Days: f.days, Now: a.Now})
			if err != nil {
				return fromCert(cmd, err)
			}
			if err := a.printMade(m); err != nil {
				return err
			}
			a.console().Talk("Keep ca.key secret: who holds it can be any node. Next, for each node:\n  clrelay cert create-node --ca-dir %s --dir mx1 --name mx1 --host 10.0.0.1", f.dir)
			return nil
		},
	}
	c.Flags().StringVar(&f.dir, "dir", "", "make ca.crt and ca.key in this `folder`")
	c.Flags().IntVar(&f.days, "days", pki.CADays, "`days` it is valid")
	return c
}

func (a *App) certCreate(kind pki.Kind) *cobra.Command {
	f := certFlags{}
	c := &cobra.Command{
		Use:   "create-node --dir DIR --name NAME",
		Short: "Make the certificate of a node",
		Long: `Make the certificate of a node: node.crt and node.key, with ca.crt beside them.
The folder is the node's tls_dir. NAME is what node.yaml says under "node"; it
is what other nodes check. Hosts are for programs other than clrelay.`,
		Example: "clrelay cert create-node --ca-dir ca --dir mx1 --name mx1 --host 10.0.0.1 --host mx1.example.edu",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.createCert(cmd, kind, f) },
	}
	standard := ""
	if kind == pki.Admin {
		c.Use = "create-admin --dir DIR"
		c.Short = "Make the certificate of an operator"
		c.Long = `Make the certificate of an operator: admin.crt and admin.key, with ca.crt beside
them. With this folder as --tls-dir the commands reach every node of the
cluster over the network.

The role says what he may do: viewer looks, with addresses masked; support
looks; operator changes the queue and takes nodes out of service and back;
admin does everything; auditor reads the audit log alone. --content lets
support, operator or admin read what is written in messages. Without a role he
is admin. "access" in the cluster's configuration binds a name to another role.`
		c.Example = "clrelay cert create-admin --ca-dir ca --dir jane --name jane --role support"
		standard = "admin"
	}
	c.Flags().StringVar(&f.dir, "dir", "", "make the files in this `folder`")
	c.Flags().StringVar(&f.caDir, "ca-dir", "", "`folder` of ca.crt and ca.key (default: that of --dir)")
	c.Flags().StringVar(&f.name, "name", standard, "`name` of the "+map[pki.Kind]string{pki.Node: "node", pki.Admin: "operator"}[kind])
	c.Flags().StringSliceVar(&f.hosts, "host", nil, "`host`, a DNS name or IP address, to put into it as well; may be given again")
	c.Flags().IntVar(&f.days, "days", pki.CertDays, "`days` it is valid, but not longer than the authority")
	if kind == pki.Admin {
		c.Flags().StringVar(&f.role, "role", "", "`role`: "+roles.List()+" (default: a certificate without one, which is admin)")
		c.Flags().BoolVar(&f.content, "content", false, "he may read what is written in messages; takes --role")
	}
	return c
}

func (a *App) createCert(cmd *cobra.Command, kind pki.Kind, f certFlags) error {
	switch {
	case f.dir == "":
		return cmdline.Usagef(cmd.CommandPath(), "--dir is missing: the folder to make the certificate in")
	case f.name == "":
		return cmdline.Usagef(cmd.CommandPath(), "--name is missing: what node.yaml says under \"node\"")
	case f.days < 1:
		return cmdline.Usagef(cmd.CommandPath(), "--days %d: from 1 on", f.days)
	}
	m, err := pki.Create(pki.CertOptions{Kind: kind, Dir: f.dir, CADir: f.caDir, Name: f.name, Hosts: f.hosts, Days: f.days, Now: a.Now, Role: roles.Role(f.role), Content: f.content})
	if err != nil {
		return fromCert(cmd, err)
	}
	if err := a.printMade(m); err != nil {
		return err
	}
	if kind == pki.Node {
		a.console().Talk("Bring ca.crt, node.crt and node.key to %s as its tls_dir; the user that runs the relay must be able to read them.", f.name)
	} else {
		a.console().Talk("Use it with --tls-dir %s, or CLRELAY_TLS_DIR.", f.dir)
	}
	return nil
}

func (a *App) certShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE...",
		Short: "Show certificates in files",
		Long: `Show the certificates in files: whose they are and until when they are valid.
With one that is not valid now the exit code is 8.`,
		Example: "clrelay cert show /etc/clrelay/tls/*.crt",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var found []pki.Info
			for _, path := range args {
				infos, err := pki.Describe(path)
				if err != nil {
					return fromCert(cmd, err)
				}
				found = append(found, infos...)
			}
			l, bad := a.console().List("FILE", "KIND", "NAME", "HOSTS", "ISSUER", "UNTIL", "STATE"), 0
			for _, i := range found {
				state, ok := validity(i, a.Now())
				if !ok {
					bad++
				}
				kind := i.Kind
				switch {
				case kind == "":
					kind = "-"
				case i.Role != "":
					kind = i.Role
				}
				hosts := strings.Join(i.Hosts, ",")
				if hosts == "" {
					hosts = "-"
				}
				if err := l.Row(certInfo(i), cmdline.Cell(i.File, 80), kind, cmdline.Cell(i.Name, 64), cmdline.Cell(hosts, 60), cmdline.Cell(i.Issuer, 64), i.NotAfter.Format(time.DateOnly), state); err != nil {
					return err
				}
			}
			if err := l.End(); err != nil {
				return err
			}
			if bad > 0 {
				return cmdline.Exitf(cmdline.ExitFindings, "%s not valid now", cmdline.Plural(int64(bad), "certificate"))
			}
			return nil
		},
	}
}

// validity says how a certificate stands now, and whether it is valid.
func validity(i pki.Info, now time.Time) (string, bool) {
	switch left := i.NotAfter.Sub(now); {
	case now.Before(i.NotBefore):
		return "not yet valid", false
	case left < 0:
		return "expired", false
	case left < certWarning:
		return "expires in " + cmdline.Span(left), true
	}
	return "valid", true
}

func (a *App) printMade(m pki.Made) error {
	v := certMade{Files: m.Files, Cert: certInfo(m.Cert)}
	return a.console().Object(v, func(w io.Writer) error {
		for _, f := range m.Files {
			if _, err := fmt.Fprintf(w, "made %s\n", f); err != nil {
				return err
			}
		}
		whose := m.Cert.Kind + " " + m.Cert.Name
		if m.Cert.Kind == "ca" {
			whose = m.Cert.Name
		}
		_, err := fmt.Fprintf(w, "%s, valid until %s\n", whose, m.Cert.NotAfter.Format(time.DateOnly))
		return err
	})
}

// fromCert gives errors of package pki their exit codes.
func fromCert(cmd *cobra.Command, err error) error {
	err = trimmed{err}
	switch {
	case errors.Is(err, pki.ErrInvalid):
		return &cmdline.UsageError{Command: cmd.CommandPath(), Err: err}
	case errors.Is(err, pki.ErrExists), errors.Is(err, fs.ErrExist):
		return &cmdline.ExitError{Code: cmdline.ExitConflict, Err: err}
	case errors.Is(err, fs.ErrNotExist):
		return &cmdline.ExitError{Code: cmdline.ExitNotFound, Err: err}
	case errors.Is(err, fs.ErrPermission):
		return &cmdline.ExitError{Code: cmdline.ExitDenied, Err: err}
	}
	return err
}

// trimmed is an error without the name of the package that found it, which
// means nothing to an operator.
type trimmed struct{ error }

func (t trimmed) Error() string { return strings.TrimPrefix(t.error.Error(), "pki: ") }
func (t trimmed) Unwrap() error { return t.error }
