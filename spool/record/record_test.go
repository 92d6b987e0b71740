package record_test

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/clrelay/clrelay/internal/mail"
	spoolv1 "github.com/clrelay/clrelay/proto/spool/v1"
	"github.com/clrelay/clrelay/spool/record"
)

func envelope() *mail.Envelope {
	return &mail.Envelope{
		ID:   mail.NewID(time.Unix(1_800_000_000, 0)),
		From: mail.Address{Local: "sender", Domain: "example.org"},
		Recipients: []mail.Recipient{
			{Addr: mail.Address{Local: "a", Domain: "example.edu"}},
			{Addr: mail.Address{Local: "\xff not utf-8", Domain: "[192.0.2.1]"}, Notify: mail.NotifyDelay | mail.NotifyFailure, ORcptType: "rfc822", ORcpt: "x@y"},
			{Addr: mail.Address{Local: "postmaster"}},
		},
		Body: mail.Body8BitMIME, SMTPUTF8: true, RequireTLS: true, Ret: mail.ReturnHeaders, EnvID: "env id", MessageID: "a.b@example.edu",
		Arrived: time.UnixMilli(1_800_000_000_123),
		Hold:    time.UnixMilli(1_800_000_600_456),
		By:      mail.By{At: time.UnixMilli(1_800_000_900_789), Return: true, Trace: true},
		Client: mail.Client{Addr: netip.MustParseAddr("2001:db8::1%eth0"), Helo: "h\xe9lo", Protocol: "ESMTPS",
			TLS: "TLSv1.3 TLS_AES_128_GCM_SHA256", Sender: "campus"},
	}
}

func TestCommitIsTheProtoMessage(t *testing.T) {
	env := envelope()
	c := record.Commit{First: 7, More: []uint32{1, 3, 700}, Length: 3_000_000, CRC32C: 0xdeadbeef}
	data := record.AppendCommit(nil, &c, env)

	var pb spoolv1.Commit
	if err := proto.Unmarshal(data, &pb); err != nil {
		t.Fatal(err)
	}
	if len(pb.ProtoReflect().GetUnknown()) > 0 {
		t.Error("the generated code does not know every field")
	}
	if !bytes.Equal(pb.Id, env.ID[:]) || pb.First != 7 || !reflect.DeepEqual(pb.More, c.More) || pb.Length != c.Length || pb.Crc32C != c.CRC32C || string(pb.MessageId) != env.MessageID ||
		string(pb.FromLocal) != "sender" || len(pb.Recipients) != 3 || string(pb.Recipients[1].Orcpt) != "x@y" ||
		pb.HoldMs != env.Hold.UnixMilli() || pb.ByMs != env.By.At.UnixMilli() || pb.ByMode != 3 ||
		string(pb.Client.Helo) != env.Client.Helo || pb.ArrivedMs != env.Arrived.UnixMilli() || string(pb.EnvId) != env.EnvID {
		t.Errorf("the generated code reads %v", &pb)
	}

	// What the generated code writes is read back, and equal.
	again, err := proto.Marshal(&pb)
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{data, again} {
		var gotC record.Commit
		var got mail.Envelope
		if err := record.ParseCommit(data, &gotC, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(&got, env) || !reflect.DeepEqual(gotC, c) {
			t.Errorf("got  %+v %+v\nwant %+v %+v", gotC, got, c, env)
		}
		skim, err := record.SkimCommit(data, &gotC)
		if err != nil || skim.ID != env.ID || skim.Recipients != 3 || skim.ArrivedMS != env.Arrived.UnixMilli() || skim.HoldMS != env.Hold.UnixMilli() || !reflect.DeepEqual(gotC, c) {
			t.Errorf("skimmed %+v %+v %v", skim, gotC, err)
		}
	}
}

func TestNullSenderAndZeroes(t *testing.T) {
	env := &mail.Envelope{ID: mail.ID{1}, Arrived: time.UnixMilli(0), Recipients: []mail.Recipient{{}}}
	data := record.AppendCommit(nil, &record.Commit{}, env)
	var c record.Commit
	var got mail.Envelope
	if err := record.ParseCommit(data, &c, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&got, env) {
		t.Errorf("got %+v", got)
	}
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	env := envelope()
	data := record.AppendCommit(nil, &record.Commit{First: 1, Length: 2}, env)
	data = append(data, 0xfa, 0x01, 3, 'n', 'e', 'w', 0xf8, 0x01, 5) // field 31, twice
	var c record.Commit
	var got mail.Envelope
	if err := record.ParseCommit(data, &c, &got); err != nil || !reflect.DeepEqual(&got, env) {
		t.Errorf("%v %+v", err, got)
	}
}

// TestTrashIsHeldForOthers: what is in the trash is held for a program that
// knows no trash, and a state that only memory has is none.
func TestTrashIsHeldForOthers(t *testing.T) {
	orders := record.Orders{Route: "mx", EndMS: 1_900_000_000_000, Rule: "r1", Back: mail.StateHeld}
	in := record.Result{ID: mail.ID{1}, Settled: []record.Settled{
		{Recipient: 1, Version: 2, State: mail.StateTrashed, NextMS: 5000, Orders: orders},
		{Recipient: 2, Version: 2, State: mail.StateTrashed},
		{Recipient: 3, Version: 2, State: mail.StateHeld, Orders: record.Orders{Rule: "r1"}},
	}}
	data := record.AppendResult(nil, &in)
	var pb spoolv1.Result
	if err := proto.Unmarshal(data, &pb); err != nil {
		t.Fatal(err)
	}
	for i, trash := range []uint32{2, 1, 0} {
		if s := pb.GetSettled()[i]; s.GetState() != uint32(mail.StateHeld) || s.GetTrash() != trash || len(s.ProtoReflect().GetUnknown()) > 0 {
			t.Errorf("%v", s)
		}
	}
	var out record.Result
	for _, parse := range []func([]byte, *record.Result) error{record.ParseResult, record.SkimResult} {
		if err := parse(data, &out); err != nil || !reflect.DeepEqual(out, in) || out.Check() != nil {
			t.Errorf("%v\n%+v\n%+v", err, out, in)
		}
	}
	pb.GetSettled()[0].State, pb.GetSettled()[0].Trash = uint32(mail.StateTrashed), 0
	data, err := proto.Marshal(&pb)
	if err != nil {
		t.Fatal(err)
	}
	if err := record.ParseResult(data, &out); err != nil || out.Check() == nil {
		t.Errorf("%v, %+v", err, out.Settled[0])
	}
}

func TestResultIsTheProtoMessage(t *testing.T) {
	r := &record.Result{ID: mail.ID{9}, Finished: true, Victim: 77, Settled: []record.Settled{
		{Recipient: 0, Version: 3, State: mail.StateDeferred, Attempts: 2, NextMS: 1_800_000_000_000, AtMS: 5,
			Reply: mail.Reply{Code: 451, Enhanced: mail.EnhancedCode{4, 3, 10}, Text: "later\nplease"}, Remote: "mx[192.0.2.1]:25"},
		{Recipient: 1000, Version: 1, State: mail.StateDropped},
	}}
	data := record.AppendResult(nil, r)
	var pb spoolv1.Result
	if err := proto.Unmarshal(data, &pb); err != nil {
		t.Fatal(err)
	}
	s := pb.Settled[0]
	if !pb.Finished || pb.Victim != 77 || len(pb.Settled) != 2 || s.Version != 3 || s.Code != 451 || s.EnhancedDetail != 10 || string(s.Text) != "later\nplease" ||
		len(pb.ProtoReflect().GetUnknown())+len(s.ProtoReflect().GetUnknown()) > 0 {
		t.Errorf("the generated code reads %v", &pb)
	}
	var got record.Result
	if err := record.ParseResult(data, &got); err != nil || !reflect.DeepEqual(&got, r) {
		t.Errorf("%v %+v", err, got)
	}
	if err := record.SkimResult(data, &got); err != nil || got.Settled[0].Version != 3 || got.Settled[0].Reply.Text != "" {
		t.Errorf("%v %+v", err, got)
	}
	if v, ok, err := record.Victim(record.KindResult, data); v != 77 || !ok || err != nil {
		t.Errorf("victim %d %v %v", v, ok, err)
	}
	if v, ok, err := record.Victim(record.KindAbort, record.AppendAbort(nil, "", 3)); v != 3 || !ok || err != nil {
		t.Errorf("victim %d %v %v", v, ok, err)
	}
	if _, ok, err := record.Victim(record.KindAbort, record.AppendAbort(nil, "x", 0)); ok || err != nil {
		t.Errorf("victim %v %v", ok, err)
	}
}

func TestSegmentAndAttempt(t *testing.T) {
	s := &record.Segment{State: record.SegmentSealed, Owner: record.Member{Node: "mx1", StoreID: [16]byte{1}},
		Members: []record.Member{{Node: "mx1", StoreID: [16]byte{1}}, {Node: "mx2", StoreID: [16]byte{2}}}, LastSeq: 10, End: 9}
	data := record.AppendSegment(nil, s)
	var pb spoolv1.Segment
	if err := proto.Unmarshal(data, &pb); err != nil || pb.State != spoolv1.SegmentState_SEGMENT_STATE_SEALED || pb.Members[1].Node != "mx2" || pb.End != 9 {
		t.Errorf("%v %v", err, &pb)
	}
	if got, err := record.ParseSegment(data); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("%v %+v", err, got)
	}
	a := &record.Attempt{Recipients: []uint32{0, 3, 900}, Versions: []uint32{1, 1, 4}}
	var pa spoolv1.Attempt
	data = record.AppendAttempt(nil, a)
	if err := proto.Unmarshal(data, &pa); err != nil || !reflect.DeepEqual(pa.Recipients, a.Recipients) {
		t.Errorf("%v %v", err, &pa)
	}
	if got, err := record.ParseAttempt(data); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("%v %+v", err, got)
	}
	var ab spoolv1.Abort
	if err := proto.Unmarshal(record.AppendAbort(nil, "gone", 5), &ab); err != nil || string(ab.Reason) != "gone" || ab.Victim != 5 {
		t.Errorf("%v %v", err, &ab)
	}
}

// FuzzPayload holds the hand-written readers against bad input: they take it
// or refuse it, and what they take they write as they read it.
func FuzzPayload(f *testing.F) {
	env := envelope()
	f.Add(record.AppendCommit(nil, &record.Commit{First: 1, More: []uint32{1, 2}, Length: 9}, env))
	f.Add(record.AppendResult(nil, &record.Result{ID: env.ID, Settled: []record.Settled{{Recipient: 1, Reply: mail.Reply{Text: "x"}}}}))
	f.Add(record.AppendResult(nil, &record.Result{ID: env.ID, Settled: []record.Settled{{State: mail.StateTrashed, Orders: record.Orders{Route: "mx", EndMS: 1, Rule: "r", Back: mail.StateHeld}}}}))
	f.Add(record.AppendAttempt(nil, &record.Attempt{Recipients: []uint32{1}, Versions: []uint32{1}}))
	f.Add(record.AppendSegment(nil, &record.Segment{State: record.SegmentOpen, Members: []record.Member{{Node: "a"}}}))
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 10 {
		b := record.AppendCommit(nil, &record.Commit{}, env)
		b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var c, c2 record.Commit
		var e, e2 mail.Envelope
		_, skimErr := record.SkimCommit(data, &c)
		if err := record.ParseCommit(data, &c, &e); err == nil {
			if err := record.ParseCommit(record.AppendCommit(nil, &c, &e), &c2, &e2); err != nil || !reflect.DeepEqual(e, e2) {
				t.Fatalf("%v\n%+v\n%+v", err, e, e2)
			}
			if skimErr != nil && !e.ID.IsZero() {
				t.Fatalf("read, but not skimmed: %v", skimErr)
			}
		}
		var r, r2 record.Result
		if record.ParseResult(data, &r) == nil {
			if err := record.ParseResult(record.AppendResult(nil, &r), &r2); err != nil || !reflect.DeepEqual(r.Settled, r2.Settled) && len(r.Settled) > 0 {
				t.Fatalf("%v\n%+v\n%+v", err, r, r2)
			}
		}
		_, _ = record.ParseSegment(data)
		_, _ = record.ParseAttempt(data)
	})
}

func BenchmarkCommit(b *testing.B) {
	env := envelope()
	env.Recipients = env.Recipients[:1]
	c := &record.Commit{First: 1, Length: 10240}
	data := record.AppendCommit(nil, c, env)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 1024)
		for b.Loop() {
			buf = record.AppendCommit(buf[:0], c, env)
		}
	})
	b.Run("skim", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = record.SkimCommit(data, c)
		}
	})
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		var e mail.Envelope
		for b.Loop() {
			_ = record.ParseCommit(data, c, &e)
		}
	})
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		var pb spoolv1.Commit
		for b.Loop() {
			_ = proto.Unmarshal(data, &pb)
		}
	})
}
