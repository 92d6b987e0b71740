package mask

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

func TestText(t *testing.T) {
	for was, want := range map[string]string{
		"":                                "",
		"no address at 10:40 @ noon":      "no address at 10:40 @ noon",
		"jane@example.org":                "j***@example.org",
		"j@example.org":                   "j***@example.org",
		"<jane.doe+tag@example.org>":      "<j***@example.org>",
		"550 5.1.1 <jane@x.org>: unknown": "550 5.1.1 <j***@x.org>: unknown",
		"jane@x.org,joe@y.org;jim@z.org":  "j***@x.org,j***@y.org;j***@z.org",
		`"jane doe"@x.org`:                `j***@x.org`,
		`<"jane \"the\" doe"@x.org> and`:  `<j***@x.org> and`,
		`{"to":"\"jane doe\"@x.org"}`:     `{"to":"j***@x.org"}`,
		"jürgen@exämple.org":              "j***@exämple.org",
		"用户@例子.广告":                        "用***@例子.广告",
		"jane＠example.org":                "j***＠example.org",
		"jane@[192.0.2.1]":                "j***@[192.0.2.1]",
		"rfc822;jane+40x.org":             "rfc822;j***+40x.org",
		"mailto:jane%40x.org":             "mailto:j***%40x.org",
		"jane@localhost":                  "j***@localhost",
		"<@a.org,@b.org:jane@c.org>":      "<@a.org,@b.org:j***@c.org>",
		"domains:\n  - {name: a}\npostmaster: jane@x.org # joe@y.org\n": "domains:\n  - {name: a}\npostmaster: j***@x.org # j***@y.org\n",
		"bounces+jane=x.org@lists.org":                                  "b***@lists.org",
		"jane@a@b":                                                      "j***@a***@b",
		"O'Brien@x.org":                                                 "O***@x.org",
		"\xffjane@x.org":                                                "\xff***@x.org",
		`lost quote" jane"@x.org`:                                       `l***@x.org`,
	} {
		got := Text(was)
		if was == `lost quote" jane"@x.org` {
			if strings.Contains(got, "jane") {
				t.Errorf("%q became %q", was, got)
			}
			continue
		}
		if got != want {
			t.Errorf("%q became %q, want %q", was, got, want)
		}
	}
}

// What is masked is a copy, at every depth, and its octets are others.
func TestMessage(t *testing.T) {
	m := &adminv1.ShowResponse{Message: &adminv1.Message{From: "jane@x.org", Recipients: []*adminv1.MessageRecipient{{Rcpt: "joe@y.org", LastReply: "550 <joe@y.org> no"}}}}
	keep := proto.Clone(m)
	got := Message(m)
	if !proto.Equal(m, keep) {
		t.Error("the message itself was changed")
	}
	if b, _ := proto.Marshal(got); strings.Contains(string(b), "jane") || strings.Contains(string(b), "joe") || !strings.Contains(string(b), "550 <j***@y.org> no") {
		t.Errorf("masked: %v", got)
	}
	c := &adminv1.ConfigServiceApplyRequest{Text: []byte("postmaster: jane@x.org")}
	if got := Message(c).(*adminv1.ConfigServiceApplyRequest); string(got.GetText()) != "postmaster: j***@x.org" || string(c.GetText()) != "postmaster: jane@x.org" {
		t.Errorf("octets: %q", got.GetText())
	}
}

// No address survives, whatever stands around it.
func FuzzText(f *testing.F) {
	f.Add("<", ">: no")
	f.Add("\"", "@")
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "zqxjkvbw"
		if strings.Contains(before+after, secret) || strings.Contains(before+after, "40") {
			return
		}
		if got := Text(before + "z" + secret + "@host.example" + after); strings.Contains(got, secret) {
			t.Fatalf("%q and %q: %q", before, after, got)
		}
	})
}
