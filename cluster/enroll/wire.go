package enroll

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/clrelay/clrelay/cluster/pki"
)

// maxMessage bounds what either end sends, in octets.
const maxMessage = 32 << 10

// ask is what a machine sends, once.
type ask struct {
	ID      string `json:"id"`
	Secret  string `json:"secret"`
	Request []byte `json:"request"` // in DER
}

// The kinds of answers.
const (
	codeOK       = "ok"
	codeDenied   = "denied"      // it does not get better
	codeConflict = "conflict"    // likewise, until an operator does something
	codeLater    = "unavailable" // a later try may succeed
)

// answer is what it hears, once.
type answer struct {
	Code string   `json:"code"`
	Text string   `json:"text,omitempty"`
	Cert []byte   `json:"cert,omitempty"` // PEM
	Join []string `json:"join,omitempty"` // gossip addresses
}

var errMessage = errors.New("enroll: what came is no message of this protocol")

// send writes a message: its length in four octets and JSON.
func send(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("enroll: %w", err)
	}
	if len(text) > maxMessage {
		return fmt.Errorf("enroll: a message of %d octets, and %d are the most", len(text), maxMessage)
	}
	if _, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)); err != nil {
		return fmt.Errorf("enroll: %w", err)
	}
	return nil
}

// receive reads a message. It never reads or keeps more than maxMessage.
func receive(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("enroll: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return fmt.Errorf("%w: %d octets", errMessage, n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return fmt.Errorf("enroll: %w", err)
	}
	if json.Unmarshal(text, v) != nil {
		return errMessage
	}
	return nil
}

// readAsk reads what a stranger sends.
func readAsk(r io.Reader) (ask, error) {
	var a ask
	if err := receive(r, &a); err != nil {
		return ask{}, err
	}
	if len(a.ID) > maxTokenLen || len(a.Secret) > maxTokenLen || len(a.Request) > pki.MaxRequest {
		return ask{}, errMessage
	}
	return a, nil
}
