package mail_test

import (
	"errors"
	"math"
	"testing"

	"github.com/clrelay/clrelay/internal/mail"
)

func TestXText(t *testing.T) {
	for enc, plain := range map[string]string{"": "", "abc": "abc", "a+20b": "a b", "+2B+3D": "+=", "a@b.example": "a@b.example", `\"`: `\"`} {
		if got, err := mail.ParseXText(enc); err != nil || got != plain {
			t.Errorf("ParseXText(%q) = %q, %v", enc, got, err)
		}
		if got := mail.XText(plain); got != enc {
			t.Errorf("XText(%q) = %q, want %q", plain, got, enc)
		}
	}
	if got, err := mail.ParseXText("a+2bb"); err != nil || got != "a+b" {
		t.Errorf("lower-case hexadecimal: %q, %v", got, err)
	}
	for _, in := range []string{"+", "+2", "+2G", "a b", "a=b", "a\x00", "a\x7f", "ä", "+0D+0A", "+00", "+7F", "+E4", "a+"} {
		if got, err := mail.ParseXText(in); !errors.Is(err, mail.ErrParam) {
			t.Errorf("ParseXText(%q) = %q, %v", in, got, err)
		}
	}
	if got := mail.XText("a\r\n\xff"); got != "a+0D+0A+FF" {
		t.Errorf("XText of foreign octets: %q", got)
	}
}

func TestParseORcpt(t *testing.T) {
	for _, c := range []struct{ in, typ, addr string }{
		{"rfc822;a@b.example", "rfc822", "a@b.example"},
		{"RFC822;a+2Btag@b.example", "RFC822", "a+tag@b.example"},
		{"x-local;number+2020", "x-local", "number 20"},
		{`utf-8;j\x{F6}rg@b.example`, "utf-8", "jörg@b.example"},
		{`utf-8;a\x{2B}\x{5c}@b.example`, "utf-8", `a+\@b.example`},
		{`utf-8;a+2Bb@b.example`, "utf-8", "a+b@b.example"},
		{`utf-8;\x{10FFFF}`, "utf-8", "\U0010FFFF"},
	} {
		for _, wide := range []bool{false, true} {
			typ, addr, err := mail.ParseORcpt(c.in, wide)
			if err != nil || typ != c.typ || addr != c.addr {
				t.Errorf("%q: %q, %q, %v", c.in, typ, addr, err)
			}
			again := mail.FormatORcpt(typ, addr, wide)
			if typ2, addr2, err := mail.ParseORcpt(again, wide); err != nil || typ2 != typ || addr2 != addr {
				t.Errorf("%q: written as %q", c.in, again)
			}
		}
	}
	if _, addr, err := mail.ParseORcpt("utf-8;jörg@b.example", true); err != nil || addr != "jörg@b.example" {
		t.Errorf("unitext: %q, %v", addr, err)
	}
	for _, in := range []string{
		"", ";", "rfc822", "rfc822;", ";a@b", "rfc 822;a@b", "a=b;c", "rfc822;a b", "rfc822;ä@b", "rfc822;+0A", "rfc822;" + rep("a", 500),
		`utf-8;\x{D800}`, `utf-8;\x{}`, `utf-8;\x{A}`, `utf-8;\x{85}`, `utf-8;\x{110000}`, `utf-8;\x{0000041}`, `utf-8;\x{41`, `utf-8;\y`, "utf-8;a=b", "utf-8;a b", "utf-8;+0A", "utf-8;+E4", "utf-8;\xff",
	} {
		if typ, addr, err := mail.ParseORcpt(in, true); !errors.Is(err, mail.ErrParam) {
			t.Errorf("%q was taken: %q, %q", in, typ, addr)
		}
	}
	if _, _, err := mail.ParseORcpt("utf-8;jörg@b.example", false); err == nil {
		t.Error("unitext was taken without SMTPUTF8")
	}
}

func TestFormatORcpt(t *testing.T) {
	for _, c := range []struct {
		typ, addr string
		wide      bool
		want      string
	}{
		{"", "", false, ""},
		{"rfc822", "a+b@c", true, "rfc822;a+2Bb@c"},
		{"utf-8", "jörg+x@c", true, `utf-8;jörg\x{2B}x@c`},
		{"utf-8", "jörg+x@c", false, `utf-8;j\x{F6}rg\x{2B}x@c`},
		{"utf-8", "a\r\nb\xff", true, "utf-8;a??b?"},
		{"rfc822", "a\r\nb> X", true, "rfc822;a+0D+0Ab>+20X"},
		{"x y", "a", true, ""},
	} {
		if got := mail.FormatORcpt(c.typ, c.addr, c.wide); got != c.want {
			t.Errorf("FormatORcpt(%q, %q, %t) = %q, want %q", c.typ, c.addr, c.wide, got, c.want)
		}
	}
}

func TestParseEnvID(t *testing.T) {
	if got, err := mail.ParseEnvID("QQ+2B314159"); err != nil || got != "QQ+314159" {
		t.Errorf("%q, %v", got, err)
	}
	for _, in := range []string{"", "+0D+0A", rep("a", 101)} {
		if got, err := mail.ParseEnvID(in); err == nil {
			t.Errorf("%q was taken as %q", in, got)
		}
	}
}

func TestNotify(t *testing.T) {
	for in, want := range map[string]mail.Notify{
		"NEVER": mail.NotifyNever, "never": mail.NotifyNever, "SUCCESS": mail.NotifySuccess, "failure,Delay": mail.NotifyFailure | mail.NotifyDelay,
		"SUCCESS,FAILURE,DELAY": mail.NotifySuccess | mail.NotifyFailure | mail.NotifyDelay, "DELAY,DELAY": mail.NotifyDelay,
	} {
		got, err := mail.ParseNotify(in)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
		if again, err := mail.ParseNotify(got.String()); err != nil || again != got {
			t.Errorf("%q: written as %q", in, got.String())
		}
	}
	for _, in := range []string{"", ",", "NEVER,SUCCESS", "SUCCESS,", "SUCCESS, DELAY", "ALWAYS"} {
		if got, err := mail.ParseNotify(in); !errors.Is(err, mail.ErrParam) {
			t.Errorf("%q was taken as %v", in, got)
		}
	}
	if s := mail.Notify(0).String(); s != "" {
		t.Errorf("no NOTIFY is written as %q", s)
	}
}

func TestRetBodySize(t *testing.T) {
	for in, want := range map[string]mail.Return{"FULL": mail.ReturnFull, "hdrs": mail.ReturnHeaders} {
		if got, err := mail.ParseReturn(in); err != nil || got != want {
			t.Errorf("RET %q: %v, %v", in, got, err)
		}
	}
	for in, want := range map[string]mail.BodyType{"7bit": mail.Body7Bit, "8BITMIME": mail.Body8BitMIME, "BinaryMime": mail.BodyBinaryMIME} {
		got, err := mail.ParseBody(in)
		if again, err2 := mail.ParseBody(got.String()); err != nil || got != want || err2 != nil || again != got {
			t.Errorf("BODY %q: %v, %v", in, got, err)
		}
	}
	for in, want := range map[string]int64{"0": 0, "10000": 10000, "9223372036854775807": math.MaxInt64, "99999999999999999999": math.MaxInt64} {
		if got, err := mail.ParseSize(in); err != nil || got != want {
			t.Errorf("SIZE %q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "-1", "+1", "1k", " 1", "0x10", "111111111111111111111"} {
		if _, err := mail.ParseSize(in); !errors.Is(err, mail.ErrParam) {
			t.Errorf("SIZE %q: %v", in, err)
		}
		if _, err := mail.ParseReturn(in); !errors.Is(err, mail.ErrParam) {
			t.Errorf("RET %q: %v", in, err)
		}
		if _, err := mail.ParseBody(in); !errors.Is(err, mail.ErrParam) {
			t.Errorf("BODY %q: %v", in, err)
		}
	}
}
