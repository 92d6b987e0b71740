package sasl

import (
	"errors"
	"io"
	"os"
	"strings"
)

const maxPassword = 4096

var errPassword = errors.New("password file is empty, too long or holds NUL")

// ReadPassword takes a password from a file, as it is but for a line end at its end.
func ReadPassword(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	_ = f.Close() // it was only read
	if err != nil {
		return "", err
	}
	s := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if s == "" || len(b) > maxPassword || strings.IndexByte(s, 0) >= 0 {
		return "", errPassword
	}
	return s, nil
}
