package fsm

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/clrelay/clrelay/cluster/fsm/audit"
	"github.com/clrelay/clrelay/cluster/fsm/records"
	"github.com/clrelay/clrelay/cluster/fsm/shares"
	"github.com/clrelay/clrelay/cluster/fsm/suppressed"
	controlv1 "github.com/clrelay/clrelay/proto/control/v1"
	"github.com/clrelay/clrelay/proto/control/wire"
)

// A snapshot is the magic, the format's version, the CRC-32C and the length of
// the rest, both big-endian, and a control.v1.Snapshot.
const (
	snapshotMagic   = "clrfsm"
	snapshotVersion = 1
	snapshotHeader  = len(snapshotMagic) + 2 + 4 + 8
)

// Snapshot returns the whole state. Equal states give equal octets.
func (s *State) Snapshot() []byte { return s.Capture()() }

// Capture holds the whole state as it is. What takes long, to write it down, the
// function does, in any goroutine, whatever becomes of the state meanwhile.
func (s *State) Capture() func() []byte {
	m := &controlv1.Snapshot{
		Applied: s.applied, Level: s.level, Generation: s.generation, Sessions: s.lastN,
		Settings: wire.PutSettings(s.settings),
	}
	for _, c := range s.configs {
		m.Configs = append(m.Configs, wire.PutConfig(c))
	}
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		m.Nodes = append(m.Nodes, putNode(s.nodes[name]))
	}
	s.putSegments(m)
	s.putLedger(m)
	list := s.suppressed.Capture()
	return func() []byte {
		m.Suppressed = list()
		return encode(m)
	}
}

// encode writes a snapshot down.
func encode(m *controlv1.Snapshot) []byte {
	opt := proto.MarshalOptions{Deterministic: true}
	out := make([]byte, snapshotHeader, snapshotHeader+opt.Size(m))
	opt.UseCachedSize = true
	out, err := opt.MarshalAppend(out, m)
	if err != nil {
		// Every text in a State came out of protobuf's own decoder or was
		// checked by validText.
		panic(fmt.Sprintf("fsm: a state that cannot be encoded: %v", err))
	}
	putHeader(out)
	return out
}

// putHeader writes the header in front of what stands behind it.
func putHeader(b []byte) {
	body := b[snapshotHeader:]
	copy(b, snapshotMagic)
	binary.BigEndian.PutUint16(b[len(snapshotMagic):], snapshotVersion)
	binary.BigEndian.PutUint32(b[snapshotHeader-12:], crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	binary.BigEndian.PutUint64(b[snapshotHeader-8:], uint64(len(body)))
}

// putSegments lays the records side by side: one allocation for all records,
// one for all their lists.
func (s *State) putSegments(m *controlv1.Snapshot) {
	sorted := make([]*Segment, 0, len(s.segments)+len(s.writtenOff))
	lists := 0
	for _, from := range []map[SegmentID]*Segment{s.segments, s.writtenOff} {
		at := len(sorted)
		for _, g := range from {
			sorted = append(sorted, g)
			lists += len(g.Members) + len(g.Stale)
		}
		slices.SortFunc(sorted[at:], func(a, b *Segment) int { return cmp.Compare(a.ID, b.ID) })
	}
	places := map[Ref]uint32{}
	place := func(r Ref) uint32 {
		at, ok := places[r]
		if !ok {
			at = uint32(len(m.Refs))
			places[r] = at
			m.Refs = append(m.Refs, wire.PutRef(r))
		}
		return at
	}
	flat := make([]uint32, 0, lists)
	put := func(refs []Ref) []uint32 {
		from := len(flat)
		for _, r := range refs {
			flat = append(flat, place(r))
		}
		return flat[from:len(flat):len(flat)]
	}
	records := make([]controlv1.Segment, len(sorted))
	list := make([]*controlv1.Segment, len(sorted))
	for i, g := range sorted {
		x := &records[i]
		x.Id, x.Epoch, x.State, x.End, x.EndSet = uint64(g.ID), uint64(g.Epoch), uint32(g.State), g.End, g.EndSet
		x.Owner, x.Members, x.Stale = place(g.Owner), put(g.Members), put(g.Stale)
		list[i] = x
	}
	m.Segments, m.WrittenOff = list[:len(s.segments)], list[len(s.segments):]
}

// putLedger lays out what operators keep here, and how limits are divided.
func (s *State) putLedger(m *controlv1.Snapshot) {
	for _, r := range s.records.List("") {
		m.Records = append(m.Records, &controlv1.Record{Key: r.Key, Value: r.Value, Version: r.Version})
	}
	m.RecordVersion = s.records.Version()
	m.Audit = wire.PutMark(s.audit.Head())
	for _, l := range s.audit.After(0) {
		m.AuditLines = append(m.AuditLines, l.Text)
	}
	limits := s.shares.Limits()
	m.Limits = wire.PutLimits(&limits)
}

func (s *State) fillLedger(m *controlv1.Snapshot) error {
	list := make([]Record, 0, len(m.GetRecords()))
	for _, r := range m.GetRecords() {
		list = append(list, Record{Key: r.GetKey(), Value: r.GetValue(), Version: r.GetVersion()})
	}
	head, sound := wire.GetMark(m.GetAudit())
	table, ok := records.New(list, m.GetRecordVersion())
	chain, whole := audit.New(head, m.GetAuditLines())
	if !ok || !sound || !whole {
		return fmt.Errorf("%w: the operators' records or the audit chain", ErrMalformed)
	}
	limits, ok := wire.GetLimits(m.GetLimits())
	if ok {
		s.shares, ok = shares.New(limits)
	}
	if !ok {
		return fmt.Errorf("%w: how limits are divided", ErrMalformed)
	}
	s.records, s.audit = table, chain
	if s.suppressed, ok = suppressed.FromPages(m.GetSuppressed()); !ok {
		return fmt.Errorf("%w: the suppression list", ErrMalformed)
	}
	return nil
}

func putNode(n *node) *controlv1.Node {
	x := &controlv1.Node{
		Ref: wire.PutRef(n.Ref()), State: uint32(n.State), Lost: n.Lost, Lease: putLease(n.Lease), Info: wire.PutInfo(n.Info),
		Waits: n.Waits, WaitsGNs: int64(n.WaitsG), Opened: n.Opened, Inventoried: n.Inventoried, RemovedAt: n.removedAt,
	}
	for _, f := range n.Former {
		x.Former = append(x.Former, &controlv1.Former{Store: f.Store[:], Lease: putLease(f.Lease)})
	}
	for _, b := range n.nonces {
		x.Nonces = append(x.Nonces, b[:])
	}
	return x
}

func putLease(l Lease) *controlv1.Lease {
	return &controlv1.Lease{Session: uint64(l.Session), Renewed: l.Renewed, Beacon: l.Beacon, GNs: int64(l.G)}
}

func getLease(m *controlv1.Lease) Lease {
	return Lease{Session: Session(m.GetSession()), Renewed: m.GetRenewed(), Beacon: m.GetBeacon(), G: time.Duration(m.GetGNs())}
}

// Restore replaces the state by that of a snapshot. A snapshot that is
// damaged, contradicts itself or comes from a newer program is refused, and the
// state stays as it was.
func (s *State) Restore(data []byte) error {
	if len(data) < snapshotHeader || !bytes.HasPrefix(data, []byte(snapshotMagic)) {
		return fmt.Errorf("fsm: restoring a snapshot: %w: no snapshot", ErrMalformed)
	}
	if v := binary.BigEndian.Uint16(data[len(snapshotMagic):]); v != snapshotVersion {
		return fmt.Errorf("fsm: restoring a snapshot: %w: version %d", ErrMalformed, v)
	}
	body := data[snapshotHeader:]
	if binary.BigEndian.Uint64(data[snapshotHeader-8:]) != uint64(len(body)) ||
		binary.BigEndian.Uint32(data[snapshotHeader-12:]) != crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) {
		return fmt.Errorf("fsm: restoring a snapshot: %w: damaged", ErrMalformed)
	}
	var m controlv1.Snapshot
	if err := proto.Unmarshal(body, &m); err != nil {
		return fmt.Errorf("fsm: restoring a snapshot: %w: %w", ErrMalformed, err)
	}
	n := New()
	n.known = s.known
	if err := n.fill(&m); err != nil {
		return fmt.Errorf("fsm: restoring a snapshot: %w", err)
	}
	list := s.suppressed // who reads it keeps it
	list.Become(n.suppressed)
	*s = *n
	s.suppressed = list
	return nil
}

func (s *State) fill(m *controlv1.Snapshot) error {
	if m.GetLevel() > s.known {
		return fmt.Errorf("%w: %s", ErrTooNew, tooNew(m.GetLevel(), s.known))
	}
	s.applied, s.level, s.generation, s.lastN = m.GetApplied(), m.GetLevel(), m.GetGeneration(), m.GetSessions()
	s.settings = wire.GetSettings(m.GetSettings())
	for _, c := range m.GetConfigs() {
		s.configs = append(s.configs, wire.GetConfig(c))
	}
	if !s.settings.Valid() || s.generation == 0 || s.generation > MaxGeneration || s.lastN > maxSessionN || len(s.configs) > KeepConfigs {
		return fmt.Errorf("%w: numbers out of range", ErrMalformed)
	}
	for _, x := range m.GetNodes() {
		if err := s.fillNode(x); err != nil {
			return err
		}
	}
	refs, ok := make([]Ref, len(m.GetRefs())), true
	for i, x := range m.GetRefs() {
		if refs[i], ok = wire.GetRef(x); !ok {
			return fmt.Errorf("%w: member %q", ErrMalformed, x.GetNode())
		}
		if n := s.nodes[refs[i].Node]; n != nil {
			refs[i].Node = n.Name
		}
	}
	if len(m.GetSegments()) > MaxSegments || len(m.GetWrittenOff()) > MaxWrittenOff {
		return fmt.Errorf("%w: %d segments, %d written off", ErrMalformed, len(m.GetSegments()), len(m.GetWrittenOff()))
	}
	forgotten := func(r Ref) bool { return s.nodes[r.Node] == nil }
	for i, x := range slices.Concat(m.GetSegments(), m.GetWrittenOff()) {
		g, ok := getSegment(x, refs)
		off := i >= len(m.GetSegments()) // its nodes may be forgotten
		switch {
		case !ok || s.segments[g.ID] != nil || s.writtenOff[g.ID] != nil || g.Epoch.Generation() > s.generation || !off && slices.ContainsFunc(g.Members, forgotten):
			return fmt.Errorf("%w: segment %v", ErrMalformed, SegmentID(x.GetId()))
		case off:
			s.writtenOff[g.ID] = g
		default:
			s.insert(g)
		}
	}
	s.recount()
	return s.fillLedger(m)
}

func (s *State) fillNode(x *controlv1.Node) error {
	ref, ok := wire.GetRef(x.GetRef())
	n := &node{held: map[SegmentID]struct{}{}, owned: map[StoreID]counts{}, removedAt: x.GetRemovedAt()}
	n.Node = Node{
		Name: ref.Node, Store: ref.Store, State: NodeState(x.GetState()), Lost: x.GetLost(),
		Lease: getLease(x.GetLease()), Info: wire.GetInfo(x.GetInfo()), Waits: x.GetWaits(),
		WaitsG: time.Duration(x.GetWaitsGNs()), Opened: x.GetOpened(), Inventoried: x.GetInventoried(),
	}
	for _, f := range x.GetFormer() {
		id, full := wire.GetID(f.GetStore())
		ok = ok && full
		n.Former = append(n.Former, Former{Store: id, Lease: getLease(f.GetLease())})
	}
	for _, b := range x.GetNonces() {
		id, full := wire.GetID(b)
		ok = ok && full
		n.nonces = append(n.nonces, id)
	}
	if !ok || n.Name == "" || s.nodes[n.Name] != nil || x.GetState() < uint32(Alive) || x.GetState() > uint32(Removed) ||
		len(n.nonces) > keepNonces || len(s.nodes) >= MaxNodes {
		return fmt.Errorf("%w: node %q", ErrMalformed, n.Name)
	}
	if n.Lease.Session != 0 && n.State != Removed && !n.Lost {
		if s.sessions[n.Lease.Session] != nil {
			return fmt.Errorf("%w: two nodes with session %v", ErrMalformed, n.Lease.Session)
		}
		s.sessions[n.Lease.Session] = n
	}
	s.nodes[n.Name] = n
	return nil
}

func getSegment(x *controlv1.Segment, refs []Ref) (*Segment, bool) {
	if int64(x.GetOwner()) >= int64(len(refs)) || len(x.GetMembers()) > MaxMembers || len(x.GetStale()) > MaxMembers {
		return nil, false
	}
	ok := true
	get := func(places []uint32) []Ref {
		if len(places) == 0 {
			return nil
		}
		out := make([]Ref, 0, len(places))
		for _, p := range places {
			if int64(p) >= int64(len(refs)) {
				ok = false
				return nil
			}
			out = append(out, refs[p])
		}
		return out
	}
	g := &Segment{
		ID: SegmentID(x.GetId()), Epoch: Epoch(x.GetEpoch()), Owner: refs[x.GetOwner()],
		Members: get(x.GetMembers()), Stale: get(x.GetStale()),
		State: SegmentState(x.GetState()), End: x.GetEnd(), EndSet: x.GetEndSet(),
	}
	ok = ok && x.GetState() >= uint32(Open) && x.GetState() <= uint32(Sealed)
	return g, ok && g.Sound()
}
