package fsm

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/clrelay/clrelay/proto/control/v1"
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
	m := &controlv1.Command{Level: levelOf(c)}
	switch c := c.(type) {
	case Register:
		m.Kind = &controlv1.Command_Register{Register: &controlv1.Register{
			Ref: putRef(Ref{Node: c.Node, Store: c.Store}), Nonce: c.Nonce[:], Info: putInfo(c.Info),
		}}
	case Renew:
		m.Kind = &controlv1.Command_Renew{Renew: putRenew(c)}
	case SegmentOps:
		m.Kind = &controlv1.Command_SegmentOps{SegmentOps: putOps(c)}
	case NodeChange:
		m.Kind = &controlv1.Command_NodeChange{NodeChange: &controlv1.NodeChange{
			Node: c.Node, Verb: controlv1.NodeVerb(c.Verb), By: uint64(c.By),
			Store: c.Store[:], Renewed: c.Renewed, Force: c.Force,
		}}
	case ConfigApply:
		m.Kind = &controlv1.Command_ConfigApply{ConfigApply: &controlv1.ConfigApply{Config: putConfig(c.Config)}}
	case SettingsApply:
		m.Kind = &controlv1.Command_SettingsApply{SettingsApply: &controlv1.SettingsApply{Settings: putSettings(c.Settings)}}
	case FeatureRaise:
		m.Kind = &controlv1.Command_FeatureRaise{FeatureRaise: &controlv1.FeatureRaise{Level: c.Level}}
	case GenerationBump:
		m.Kind = &controlv1.Command_GenerationBump{GenerationBump: &controlv1.GenerationBump{Generation: c.Generation}}
	default:
		return nil, fmt.Errorf("fsm: encoding a command: %w: no command is a %T", ErrMalformed, c)
	}
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
	c, ok := getCommand(&m)
	if !ok || m.GetLevel() < levelOf(c) {
		return nil, m.GetLevel(), fmt.Errorf("fsm: decoding a command: %w", ErrMalformed)
	}
	return c, m.GetLevel(), nil
}

func getCommand(m *controlv1.Command) (Command, bool) {
	switch k := m.GetKind().(type) {
	case *controlv1.Command_Register:
		return getRegister(k.Register)
	case *controlv1.Command_Renew:
		return getRenew(k.Renew)
	case *controlv1.Command_SegmentOps:
		return getOps(k.SegmentOps)
	case *controlv1.Command_NodeChange:
		n := k.NodeChange
		store, ok := getID(n.GetStore())
		verb, fits := small(int32(n.GetVerb()))
		return NodeChange{
			Node: n.GetNode(), Verb: NodeVerb(verb), By: Session(n.GetBy()),
			Store: store, Renewed: n.GetRenewed(), Force: n.GetForce(),
		}, ok && fits
	case *controlv1.Command_ConfigApply:
		return ConfigApply{Config: getConfig(k.ConfigApply.GetConfig())}, true
	case *controlv1.Command_SettingsApply:
		return SettingsApply{Settings: getSettings(k.SettingsApply.GetSettings())}, true
	case *controlv1.Command_FeatureRaise:
		return FeatureRaise{Level: k.FeatureRaise.GetLevel()}, true
	case *controlv1.Command_GenerationBump:
		return GenerationBump{Generation: k.GenerationBump.GetGeneration()}, true
	}
	return nil, false
}

func getRegister(k *controlv1.Register) (Command, bool) {
	ref, ok := getRef(k.GetRef())
	nonce, full := getID(k.GetNonce())
	return Register{Node: ref.Node, Store: ref.Store, Nonce: nonce, Info: getInfo(k.GetInfo())}, ok && full && len(k.GetNonce()) > 0
}

func putRenew(c Renew) *controlv1.Renew {
	m := &controlv1.Renew{Renewals: make([]*controlv1.Renewal, len(c.Renewals))}
	for i, b := range c.Renewals {
		m.Renewals[i] = &controlv1.Renewal{Node: b.Node, Session: uint64(b.Session), Beacon: b.Beacon}
	}
	return m
}

func getRenew(m *controlv1.Renew) (Command, bool) {
	if len(m.GetRenewals()) > MaxOps {
		return nil, false
	}
	c := Renew{Renewals: make([]Renewal, len(m.GetRenewals()))}
	for i, b := range m.GetRenewals() {
		c.Renewals[i] = Renewal{Node: b.GetNode(), Session: Session(b.GetSession()), Beacon: b.GetBeacon()}
	}
	return c, true
}

func putOps(c SegmentOps) *controlv1.SegmentOps {
	m := &controlv1.SegmentOps{Ops: make([]*controlv1.SegmentOp, len(c.Ops))}
	for i := range c.Ops {
		o := &c.Ops[i]
		x := &controlv1.SegmentOp{
			Kind: controlv1.OpKind(o.Kind), Id: uint64(o.ID), Epoch: uint64(o.Epoch), By: uint64(o.By),
			Members: putRefs(o.Members), Stale: putRefs(o.Stale), End: o.End, EndSet: o.EndSet,
			Silent: uint64(o.Silent), Renewed: o.Renewed, Unclean: o.Unclean,
		}
		if o.Member != (Ref{}) {
			x.Member = putRef(o.Member)
		}
		m.Ops[i] = x
	}
	return m
}

func getOps(m *controlv1.SegmentOps) (Command, bool) {
	if len(m.GetOps()) > MaxOps {
		return nil, false
	}
	c := SegmentOps{Ops: make([]SegmentOp, len(m.GetOps()))}
	for i, x := range m.GetOps() {
		kind, ok1 := small(int32(x.GetKind()))
		member, ok2 := getRef(x.GetMember())
		members, ok3 := getRefs(x.GetMembers())
		stale, ok4 := getRefs(x.GetStale())
		if !ok1 || !ok2 || !ok3 || !ok4 {
			return nil, false
		}
		c.Ops[i] = SegmentOp{
			Kind: OpKind(kind), ID: SegmentID(x.GetId()), Epoch: Epoch(x.GetEpoch()), By: Session(x.GetBy()),
			Member: member, Members: members, Stale: stale, End: x.GetEnd(), EndSet: x.GetEndSet(),
			Silent: Session(x.GetSilent()), Renewed: x.GetRenewed(), Unclean: x.GetUnclean(),
		}
	}
	return c, true
}

// EncodeResult returns a result as it travels between nodes.
func EncodeResult(r Result) ([]byte, error) {
	m := &controlv1.Result{
		Code: uint32(r.Code), Text: r.Text, Fatal: r.Fatal, Session: uint64(r.Session),
		Nodes: r.Nodes, Cluster: r.Cluster, All: r.All,
		Ops: make([]*controlv1.OpResult, len(r.Ops)), Segments: make([]uint64, len(r.Segments)),
	}
	for i, o := range r.Ops {
		m.Ops[i] = &controlv1.OpResult{Code: uint32(o.Code), Epoch: uint64(o.Epoch)}
	}
	for i, id := range r.Segments {
		m.Segments[i] = uint64(id)
	}
	b, err := proto.Marshal(m)
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
	if m.GetCode() > 255 || len(m.GetOps()) > MaxOps {
		return Result{}, fmt.Errorf("fsm: decoding a result: %w", ErrMalformed)
	}
	r := Result{
		Code: Code(m.GetCode()), Text: m.GetText(), Fatal: m.GetFatal(), Session: Session(m.GetSession()),
		Nodes: m.GetNodes(), Cluster: m.GetCluster(), All: m.GetAll(),
	}
	for _, o := range m.GetOps() {
		if o.GetCode() > 255 {
			return Result{}, fmt.Errorf("fsm: decoding a result: %w", ErrMalformed)
		}
		r.Ops = append(r.Ops, OpResult{Code: Code(o.GetCode()), Epoch: Epoch(o.GetEpoch())})
	}
	for _, id := range m.GetSegments() {
		r.Segments = append(r.Segments, SegmentID(id))
	}
	return r, nil
}

func putRef(r Ref) *controlv1.Ref { return &controlv1.Ref{Node: r.Node, Store: r.Store[:]} }

func getRef(m *controlv1.Ref) (Ref, bool) {
	id, ok := getID(m.GetStore())
	return Ref{Node: m.GetNode(), Store: id}, ok
}

func putRefs(list []Ref) []*controlv1.Ref {
	out := make([]*controlv1.Ref, len(list))
	for i, r := range list {
		out[i] = putRef(r)
	}
	return out
}

func getRefs(list []*controlv1.Ref) ([]Ref, bool) {
	if len(list) == 0 {
		return nil, true
	}
	if len(list) > MaxMembers+1 { // one too many is told apart from nonsense
		return nil, false
	}
	out := make([]Ref, len(list))
	for i, m := range list {
		r, ok := getRef(m)
		if !ok {
			return nil, false
		}
		out[i] = r
	}
	return out, true
}

// getID reads 16 octets; none are all zeros.
func getID(b []byte) (id [16]byte, ok bool) {
	copy(id[:], b)
	return id, len(b) == 0 || len(b) == len(id)
}

// small reads a number that has to fit an octet.
func small(n int32) (uint8, bool) { return uint8(n), n >= 0 && n <= 255 }

func putInfo(i NodeInfo) *controlv1.NodeInfo {
	return &controlv1.NodeInfo{
		Address: i.Address, Smtp: i.SMTP, Zone: i.Zone, Version: i.Version,
		Features: i.Features, BootId: i.BootID, MachineId: i.MachineID,
	}
}

func getInfo(m *controlv1.NodeInfo) NodeInfo {
	return NodeInfo{
		Address: m.GetAddress(), SMTP: m.GetSmtp(), Zone: m.GetZone(), Version: m.GetVersion(),
		Features: m.GetFeatures(), BootID: m.GetBootId(), MachineID: m.GetMachineId(),
	}
}

func putConfig(c Config) *controlv1.Config {
	return &controlv1.Config{Version: c.Version, Text: c.Text, Author: c.Author, Reason: c.Reason, AtMs: c.At.UnixMilli()}
}

func getConfig(m *controlv1.Config) Config {
	return Config{Version: m.GetVersion(), Text: m.GetText(), Author: m.GetAuthor(), Reason: m.GetReason(), At: time.UnixMilli(m.GetAtMs()).UTC()}
}

func putSettings(t Settings) *controlv1.Settings {
	return &controlv1.Settings{
		Version: t.Version, Copies: uint32(max(t.Copies, 0)), GNs: int64(t.G),
		RereplicateAfterNs: int64(t.RereplicateAfter), UncleanAfterNs: int64(t.UncleanAfter),
	}
}

func getSettings(m *controlv1.Settings) Settings {
	return Settings{
		Version: m.GetVersion(), Copies: int(m.GetCopies()), G: time.Duration(m.GetGNs()),
		RereplicateAfter: time.Duration(m.GetRereplicateAfterNs()), UncleanAfter: time.Duration(m.GetUncleanAfterNs()),
	}
}
