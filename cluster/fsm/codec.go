package fsm

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/clrelay/clrelay/proto/control/v1"
	"github.com/clrelay/clrelay/proto/control/wire"
)

// ErrMalformed is returned for octets that are not a command, a result or a
// snapshot.
var ErrMalformed = errors.New("fsm: malformed")

// ErrTooNew is returned for a snapshot of a feature level that this program
// does not know.
var ErrTooNew = errors.New("fsm: of a newer version of clrelay")

// Encode returns a command as it stands in the Raft log. It fails if the
// command is longer than MaxCommand, or a text in it is not UTF-8.
func Encode(c Command) ([]byte, error) {
	m, ok := wire.PutCommand(c)
	if !ok {
		return nil, fmt.Errorf("fsm: encoding a command: %w: no command is a %T", ErrMalformed, c)
	}
	m.Level = levelOf(c)
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("fsm: encoding a command: %w", err)
	}
	if len(b) > MaxCommand {
		return nil, fmt.Errorf("fsm: encoding a command: %w: %d octets", ErrMalformed, len(b))
	}
	return b, nil
}

// Decode returns the command that Encode made data of.
func Decode(data []byte) (Command, error) {
	c, level, err := decode(data)
	if err == nil && level > KnownLevel {
		err = fmt.Errorf("fsm: decoding a command: %w: of feature level %d", ErrMalformed, level)
	}
	return c, err
}

// decode returns the level too, as far as it can be read, also with an error.
func decode(data []byte) (Command, uint32, error) {
	var m controlv1.Command
	if len(data) > MaxCommand {
		return nil, 0, fmt.Errorf("fsm: decoding a command: %w: %d octets", ErrMalformed, len(data))
	}
	if err := proto.Unmarshal(data, &m); err != nil {
		return nil, 0, fmt.Errorf("fsm: decoding a command: %w: %w", ErrMalformed, err)
	}
	c, ok := wire.GetCommand(&m)
	if !ok || m.GetLevel() < levelOf(c) {
		return nil, m.GetLevel(), fmt.Errorf("fsm: decoding a command: %w", ErrMalformed)
	}
	return c, m.GetLevel(), nil
}

// EncodeResult returns a result as it travels between nodes.
func EncodeResult(r Result) ([]byte, error) {
	b, err := proto.Marshal(wire.PutResult(r))
	if err != nil {
		return nil, fmt.Errorf("fsm: encoding a result: %w", err)
	}
	return b, nil
}

// DecodeResult returns the result that EncodeResult made data of. A code that
// this program does not know stays a number.
func DecodeResult(data []byte) (Result, error) {
	var m controlv1.Result
	if err := proto.Unmarshal(data, &m); err != nil {
		return Result{}, fmt.Errorf("fsm: decoding a result: %w: %w", ErrMalformed, err)
	}
	r, ok := wire.GetResult(&m)
	if !ok {
		return Result{}, fmt.Errorf("fsm: decoding a result: %w", ErrMalformed)
	}
	return r, nil
}
