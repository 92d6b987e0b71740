// Package wire turns the nouns and commands of the control plane into messages
// of protobuf and back. What comes in is checked for its form alone: whether a
// command may be done is the state machine's to say.
package wire

import (
	"time"

	"github.com/clrelay/clrelay/proto/control"
	controlv1 "github.com/clrelay/clrelay/proto/control/v1"
)

// PutCommand gives the message of a command, without its level; ok is false
// for what is none.
func PutCommand(c control.Command) (m *controlv1.Command, ok bool) {
	m = &controlv1.Command{}
	switch c := c.(type) {
	case control.Register:
		m.Kind = &controlv1.Command_Register{Register: &controlv1.Register{
			Ref: PutRef(control.Ref{Node: c.Node, Store: c.Store}), Nonce: c.Nonce[:], Info: PutInfo(c.Info),
		}}
	case control.Renew:
		m.Kind = &controlv1.Command_Renew{Renew: putRenew(c)}
	case control.SegmentOps:
		m.Kind = &controlv1.Command_SegmentOps{SegmentOps: putOps(c)}
	case control.NodeChange:
		m.Kind = &controlv1.Command_NodeChange{NodeChange: &controlv1.NodeChange{
			Node: c.Node, Verb: controlv1.NodeVerb(c.Verb), By: uint64(c.By),
			Store: c.Store[:], Renewed: c.Renewed, Force: c.Force,
		}}
	case control.ConfigApply:
		m.Kind = &controlv1.Command_ConfigApply{ConfigApply: &controlv1.ConfigApply{Config: PutConfig(c.Config)}}
	case control.SettingsApply:
		m.Kind = &controlv1.Command_SettingsApply{SettingsApply: &controlv1.SettingsApply{Settings: PutSettings(c.Settings)}}
	case control.FeatureRaise:
		m.Kind = &controlv1.Command_FeatureRaise{FeatureRaise: &controlv1.FeatureRaise{Level: c.Level}}
	case control.GenerationBump:
		m.Kind = &controlv1.Command_GenerationBump{GenerationBump: &controlv1.GenerationBump{Generation: c.Generation}}
	case control.RecordPut:
		m.Kind = &controlv1.Command_RecordPut{RecordPut: &controlv1.RecordPut{Key: c.Key, Value: c.Value, IfVersion: c.IfVersion, Delete: c.Delete}}
	case control.AuditAppend:
		m.Kind = &controlv1.Command_AuditAppend{AuditAppend: &controlv1.AuditAppend{Entry: putAudit(&c.Entry)}}
	case control.ShareOps:
		m.Kind = &controlv1.Command_ShareOps{ShareOps: putShares(c)}
	case control.BudgetOps:
		m.Kind = &controlv1.Command_BudgetOps{BudgetOps: putBudgets(c)}
	case control.SuppressOps:
		m.Kind = &controlv1.Command_SuppressOps{SuppressOps: putSuppress(&c)}
	default:
		return nil, false
	}
	return m, true
}

// GetCommand gives the command of a message; ok is false for what is none.
func GetCommand(m *controlv1.Command) (c control.Command, ok bool) {
	switch k := m.GetKind().(type) {
	case *controlv1.Command_Register:
		return getRegister(k.Register)
	case *controlv1.Command_Renew:
		return getRenew(k.Renew)
	case *controlv1.Command_SegmentOps:
		return getOps(k.SegmentOps)
	case *controlv1.Command_NodeChange:
		n := k.NodeChange
		store, ok := GetID(n.GetStore())
		verb, fits := small(int32(n.GetVerb()))
		return control.NodeChange{
			Node: n.GetNode(), Verb: control.NodeVerb(verb), By: control.Session(n.GetBy()),
			Store: store, Renewed: n.GetRenewed(), Force: n.GetForce(),
		}, ok && fits
	case *controlv1.Command_ConfigApply:
		return control.ConfigApply{Config: GetConfig(k.ConfigApply.GetConfig())}, true
	case *controlv1.Command_SettingsApply:
		return control.SettingsApply{Settings: GetSettings(k.SettingsApply.GetSettings())}, true
	case *controlv1.Command_FeatureRaise:
		return control.FeatureRaise{Level: k.FeatureRaise.GetLevel()}, true
	case *controlv1.Command_GenerationBump:
		return control.GenerationBump{Generation: k.GenerationBump.GetGeneration()}, true
	case *controlv1.Command_RecordPut:
		r := k.RecordPut
		return control.RecordPut{Key: r.GetKey(), Value: r.GetValue(), IfVersion: r.GetIfVersion(), Delete: r.GetDelete()}, true
	case *controlv1.Command_AuditAppend:
		return getAudit(k.AuditAppend.GetEntry())
	case *controlv1.Command_ShareOps:
		return getShares(k.ShareOps)
	case *controlv1.Command_BudgetOps:
		return getBudgets(k.BudgetOps)
	case *controlv1.Command_SuppressOps:
		return getSuppress(k.SuppressOps)
	}
	return nil, false
}

func getRegister(k *controlv1.Register) (control.Command, bool) {
	ref, ok := GetRef(k.GetRef())
	nonce, full := GetID(k.GetNonce())
	return control.Register{Node: ref.Node, Store: ref.Store, Nonce: nonce, Info: GetInfo(k.GetInfo())}, ok && full && len(k.GetNonce()) > 0
}

func putRenew(c control.Renew) *controlv1.Renew {
	m := &controlv1.Renew{Renewals: make([]*controlv1.Renewal, len(c.Renewals))}
	for i, b := range c.Renewals {
		m.Renewals[i] = &controlv1.Renewal{Node: b.Node, Session: uint64(b.Session), Beacon: b.Beacon}
	}
	return m
}

func getRenew(m *controlv1.Renew) (control.Command, bool) {
	if len(m.GetRenewals()) > control.MaxOps {
		return nil, false
	}
	c := control.Renew{Renewals: make([]control.Renewal, len(m.GetRenewals()))}
	for i, b := range m.GetRenewals() {
		c.Renewals[i] = control.Renewal{Node: b.GetNode(), Session: control.Session(b.GetSession()), Beacon: b.GetBeacon()}
	}
	return c, true
}

func putOps(c control.SegmentOps) *controlv1.SegmentOps {
	m := &controlv1.SegmentOps{Ops: make([]*controlv1.SegmentOp, len(c.Ops))}
	for i := range c.Ops {
		o := &c.Ops[i]
		x := &controlv1.SegmentOp{
			Kind: controlv1.OpKind(o.Kind), Id: uint64(o.ID), Epoch: uint64(o.Epoch), By: uint64(o.By),
			Members: PutRefs(o.Members), Stale: PutRefs(o.Stale), End: o.End, EndSet: o.EndSet,
			Silent: uint64(o.Silent), Renewed: o.Renewed, Unclean: o.Unclean,
		}
		if o.Member != (control.Ref{}) {
			x.Member = PutRef(o.Member)
		}
		m.Ops[i] = x
	}
	return m
}

func getOps(m *controlv1.SegmentOps) (control.Command, bool) {
	if len(m.GetOps()) > control.MaxOps {
		return nil, false
	}
	c := control.SegmentOps{Ops: make([]control.SegmentOp, len(m.GetOps()))}
	for i, x := range m.GetOps() {
		kind, ok1 := small(int32(x.GetKind()))
		member, ok2 := GetRef(x.GetMember())
		members, ok3 := GetRefs(x.GetMembers())
		stale, ok4 := GetRefs(x.GetStale())
		if !ok1 || !ok2 || !ok3 || !ok4 {
			return nil, false
		}
		c.Ops[i] = control.SegmentOp{
			Kind: control.OpKind(kind), ID: control.SegmentID(x.GetId()), Epoch: control.Epoch(x.GetEpoch()), By: control.Session(x.GetBy()),
			Member: member, Members: members, Stale: stale, End: x.GetEnd(), EndSet: x.GetEndSet(),
			Silent: control.Session(x.GetSilent()), Renewed: x.GetRenewed(), Unclean: x.GetUnclean(),
		}
	}
	return c, true
}

// PutResult gives the message of a result.
func PutResult(r control.Result) *controlv1.Result {
	m := &controlv1.Result{
		Code: uint32(r.Code), Text: r.Text, Fatal: r.Fatal, Session: uint64(r.Session),
		Nodes: r.Nodes, Cluster: r.Cluster, Records: r.Records, All: r.All, Version: r.Version, Audit: PutMark(r.Audit),
		Roster: r.Roster, Limits: r.Limits,
		Ops: make([]*controlv1.OpResult, len(r.Ops)), Segments: make([]uint64, len(r.Segments)),
	}
	for i, o := range r.Ops {
		m.Ops[i] = &controlv1.OpResult{Code: uint32(o.Code), Epoch: uint64(o.Epoch)}
	}
	for i, id := range r.Segments {
		m.Segments[i] = uint64(id)
	}
	return m
}

// GetResult gives the result of a message; ok is false for what is none. A code
// that this program does not know stays a number.
func GetResult(m *controlv1.Result) (r control.Result, ok bool) {
	if m.GetCode() > 255 || len(m.GetOps()) > control.MaxOps {
		return control.Result{}, false
	}
	mark, ok := GetMark(m.GetAudit())
	if !ok {
		return control.Result{}, false
	}
	r = control.Result{
		Code: control.Code(m.GetCode()), Text: m.GetText(), Fatal: m.GetFatal(), Session: control.Session(m.GetSession()),
		Nodes: m.GetNodes(), Cluster: m.GetCluster(), Records: m.GetRecords(), All: m.GetAll(), Version: m.GetVersion(), Audit: mark,
		Roster: m.GetRoster(), Limits: m.GetLimits(),
	}
	for _, o := range m.GetOps() {
		if o.GetCode() > 255 {
			return control.Result{}, false
		}
		r.Ops = append(r.Ops, control.OpResult{Code: control.Code(o.GetCode()), Epoch: control.Epoch(o.GetEpoch())})
	}
	for _, id := range m.GetSegments() {
		r.Segments = append(r.Segments, control.SegmentID(id))
	}
	return r, true
}

// PutRef gives the message of a node and its store.
func PutRef(r control.Ref) *controlv1.Ref { return &controlv1.Ref{Node: r.Node, Store: r.Store[:]} }

// GetRef reads PutRef's; ok is false if the store is no 16 octets.
func GetRef(m *controlv1.Ref) (control.Ref, bool) {
	id, ok := GetID(m.GetStore())
	return control.Ref{Node: m.GetNode(), Store: id}, ok
}

// PutRefs gives the messages of several.
func PutRefs(list []control.Ref) []*controlv1.Ref {
	out := make([]*controlv1.Ref, len(list))
	for i, r := range list {
		out[i] = PutRef(r)
	}
	return out
}

// GetRefs reads them; ok is false if one cannot be read or there are far too many.
func GetRefs(list []*controlv1.Ref) ([]control.Ref, bool) {
	if len(list) == 0 {
		return nil, true
	}
	if len(list) > control.MaxMembers+1 { // one too many is told apart from nonsense
		return nil, false
	}
	out := make([]control.Ref, len(list))
	for i, m := range list {
		r, ok := GetRef(m)
		if !ok {
			return nil, false
		}
		out[i] = r
	}
	return out, true
}

// GetID reads 16 octets; none are all zeros.
func GetID(b []byte) (id [16]byte, ok bool) {
	copy(id[:], b)
	return id, len(b) == 0 || len(b) == len(id)
}

// small reads a number that has to fit an octet.
func small(n int32) (uint8, bool) { return uint8(n), n >= 0 && n <= 255 }

// PutInfo gives the message of what a node says of itself.
func PutInfo(i control.NodeInfo) *controlv1.NodeInfo {
	return &controlv1.NodeInfo{
		Address: i.Address, Smtp: i.SMTP, Zone: i.Zone, Version: i.Version,
		Features: i.Features, BootId: i.BootID, MachineId: i.MachineID,
	}
}

// GetInfo reads it.
func GetInfo(m *controlv1.NodeInfo) control.NodeInfo {
	return control.NodeInfo{
		Address: m.GetAddress(), SMTP: m.GetSmtp(), Zone: m.GetZone(), Version: m.GetVersion(),
		Features: m.GetFeatures(), BootID: m.GetBootId(), MachineID: m.GetMachineId(),
	}
}

// PutConfig gives the message of a version of the configuration.
func PutConfig(c control.Config) *controlv1.Config {
	return &controlv1.Config{Version: c.Version, Text: c.Text, Author: c.Author, Reason: c.Reason, AtMs: c.At.UnixMilli()}
}

// GetConfig reads it.
func GetConfig(m *controlv1.Config) control.Config {
	return control.Config{Version: m.GetVersion(), Text: m.GetText(), Author: m.GetAuthor(), Reason: m.GetReason(), At: time.UnixMilli(m.GetAtMs()).UTC()}
}

// PutSettings gives the message of the settings.
func PutSettings(t control.Settings) *controlv1.Settings {
	return &controlv1.Settings{
		Version: t.Version, Copies: uint32(max(t.Copies, 0)), GNs: int64(t.G),
		RereplicateAfterNs: int64(t.RereplicateAfter), UncleanAfterNs: int64(t.UncleanAfter),
	}
}

// GetSettings reads it.
func GetSettings(m *controlv1.Settings) control.Settings {
	return control.Settings{
		Version: m.GetVersion(), Copies: int(m.GetCopies()), G: time.Duration(m.GetGNs()),
		RereplicateAfter: time.Duration(m.GetRereplicateAfterNs()), UncleanAfter: time.Duration(m.GetUncleanAfterNs()),
	}
}
