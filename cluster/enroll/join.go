package enroll

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/clrelay/clrelay/cluster/pki"
)

const (
	dialTime   = 10 * time.Second
	joinRetry  = 2 * time.Second
	maxJoin    = 32  // addresses that an answer may name
	maxAddress = 300 // octets of one
)

var (
	// ErrRefused says that the cluster does not take this machine, and will
	// not until an operator has done something.
	ErrRefused = errors.New("the cluster does not give this machine a certificate")
	// ErrStranger says that who answers is not of the cluster that the token is
	// for. It was not told the token.
	ErrStranger = errors.New("who answers is not a node of the cluster that the token is for; it was not told the token")
)

// Joining is a machine that wants its first certificate.
type Joining struct {
	Token   Token
	Address string // of the cluster port of a node
	Name    string
	Hosts   []string
	Dir     string // tls_dir
	Now     func() time.Time
	// Answered is told gossip addresses of nodes before the certificate is put
	// into the folder, which an error prevents.
	Answered func(join []string) error
	// Waits is told why it has to be tried again.
	Waits func(error)
}

// Join gets the machine its certificate and puts it into the folder. It tries
// again while the cluster cannot decide, until ctx ends; the machine's key is
// made here and never leaves it.
func Join(ctx context.Context, j Joining) error {
	key, der, err := pki.NewRequest(j.Name, j.Hosts)
	if err != nil {
		return err
	}
	for {
		a, ca, err := j.once(ctx, der)
		if err == nil {
			if err := j.Answered(a.Join); err != nil {
				return err
			}
			return pki.Install(j.Dir, pki.Pair{Key: key, Cert: a.Cert, CA: ca, Name: j.Name}, j.Now())
		}
		if errors.Is(err, ErrRefused) || errors.Is(err, ErrStranger) {
			return err
		}
		j.Waits(err)
		t := time.NewTimer(joinRetry)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("enroll: %w", err)
		}
	}
}

// once asks once.
func (j *Joining) once(ctx context.Context, der []byte) (answer, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime+decideTime+answerTime)
	defer cancel()
	raw, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", j.Address)
	if err != nil {
		return answer{}, nil, fmt.Errorf("enroll: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	conn := tls.Client(raw, pki.Pinned(j.Token.CA, j.Now))
	defer conn.Close()
	if err := conn.HandshakeContext(ctx); err != nil {
		if errors.Is(err, pki.ErrWrongCA) || errors.Is(err, pki.ErrWrongName) {
			err = fmt.Errorf("%w: %w", ErrStranger, err)
		}
		return answer{}, nil, fmt.Errorf("enroll: %s: %w", j.Address, err)
	}
	ca, err := pki.PinnedCA(conn.ConnectionState(), j.Token.CA)
	if err != nil {
		return answer{}, nil, err
	}
	// From here on the other end is known.
	if err := send(conn, ask{ID: j.Token.ID, Secret: j.Token.Secret, Request: der}); err != nil {
		return answer{}, nil, err
	}
	var a answer
	if err := receive(conn, &a); err != nil {
		return answer{}, nil, fmt.Errorf("%s gave no answer: %w", j.Address, err)
	}
	return a, ca, a.check()
}

// check makes an error of an answer that is none to go on with.
func (a *answer) check() error {
	switch a.Code {
	case codeOK:
		if len(a.Join) > maxJoin {
			a.Join = a.Join[:maxJoin]
		}
		for _, s := range a.Join {
			if len(s) > maxAddress {
				return fmt.Errorf("%w: it names an address that is none", ErrRefused)
			}
			if _, _, err := net.SplitHostPort(s); err != nil {
				return fmt.Errorf("%w: it names an address that is none: %q", ErrRefused, s)
			}
		}
		return nil
	case codeLater:
		return fmt.Errorf("enroll: %.300s", plainText(a.Text))
	case codeConflict:
		return fmt.Errorf("%w: %.300s%w", ErrRefused, plainText(a.Text), quiet{ErrConflict})
	}
	return fmt.Errorf("%w: %.300s", ErrRefused, plainText(a.Text))
}

// quiet is an error that is seen by errors.Is alone.
type quiet struct{ error }

func (quiet) Error() string   { return "" }
func (q quiet) Unwrap() error { return q.error }

// plainText is a text without what a terminal would act on.
func plainText(s string) string {
	b := []rune(s)
	for i, r := range b {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			b[i] = ' '
		}
	}
	return string(b)
}
