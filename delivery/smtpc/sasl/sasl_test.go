package sasl_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/clrelay/clrelay/delivery/smtpc/sasl"
)

func TestBestMechanism(t *testing.T) {
	for offered, want := range map[string]string{
		"LOGIN PLAIN SCRAM-SHA-256": "SCRAM-SHA-256",
		"LOGIN PLAIN":               "PLAIN",
		"CRAM-MD5 LOGIN":            "LOGIN",
	} {
		c, err := sasl.New(strings.Fields(offered), "user", "password")
		if err != nil || c.Mechanism != want {
			t.Errorf("%s: %+v, %v", offered, c, err)
		}
		if c.HasInitial != (want != "LOGIN") || strings.Contains(c.Initial, "password") != (want == "PLAIN") {
			t.Errorf("%s: initial %q", want, c.Initial)
		}
	}
	if _, err := sasl.New([]string{"CRAM-MD5", "plain"}, "user", "password"); !errors.Is(err, sasl.ErrMechanism) {
		t.Errorf("nothing in common: %v", err)
	}
}

// TestNoMoreThanAsked: a server that goes on asking gets nothing more.
func TestNoMoreThanAsked(t *testing.T) {
	c, err := sasl.New([]string{"LOGIN"}, "user", "password")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"user", "password", ""} {
		got, err := c.Next("whatever")
		if got != want || (err != nil) != (want == "") {
			t.Errorf("answer %q, %v; want %q", got, err, want)
		}
	}
	if c, err = sasl.New([]string{"PLAIN"}, "user", "password"); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Next("password?"); err == nil {
		t.Errorf("PLAIN answers %q", got)
	}
}

// TestScramWantsProof: a server that is satisfied at once has proved nothing.
func TestScramWantsProof(t *testing.T) {
	for _, last := range []string{"", "v=AAAA", "e=no"} {
		c, err := sasl.New([]string{"SCRAM-SHA-256"}, "user", "password")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Finish(last); !errors.Is(err, sasl.ErrSignature) {
			t.Errorf("%q: %v", last, err)
		}
	}
	for _, first := range []string{"r=x,s=AAAA,i=4096", "r=x,s=AAAA,i=99999999", "i=x", "", "m=ext"} {
		c, err := sasl.New([]string{"SCRAM-SHA-256"}, "user", "password")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Next(first); err == nil {
			t.Errorf("%q: answers %q", first, got)
		}
	}
}
