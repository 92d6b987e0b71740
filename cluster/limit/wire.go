package limit

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/clrelay/clrelay/cluster/fsm"
	limits "github.com/clrelay/clrelay/internal/limit"
	controlv1 "github.com/clrelay/clrelay/proto/control/v1"
)

// reportMost is how many octets of demands a report has.
const reportMost = 1 << 20

// Encode gives the octets of a report. Demands beyond reportMost are left out, and
// the report is then not complete.
func (r *Report) Encode() ([]byte, error) {
	m := &controlv1.LimitReport{Session: uint64(r.Session), Applied: r.Applied, Number: r.Number, Complete: r.Complete}
	flat := make([]controlv1.LimitDemand, len(r.Demands))
	size := 0
	for i, d := range r.Demands {
		if size += len(d.Key) + 40; size > reportMost {
			m.Complete = false
			break
		}
		x := &flat[i]
		x.Key, x.Kind, x.Units, x.Want, x.Used = string(d.Key), uint32(d.Kind), d.Units, d.Want, d.Used
		x.PerS, x.Each = uint32(d.Window/time.Second), d.Each
		m.Demands = append(m.Demands, x)
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("limit: %w", err)
	}
	return b, nil
}

// DecodeReport reads what Encode made.
func DecodeReport(b []byte) (r Report, err error) {
	var m controlv1.LimitReport
	if err := proto.Unmarshal(b, &m); err != nil {
		return r, fmt.Errorf("limit: a report: %w", err)
	}
	if len(m.GetDemands()) > MaxDemands {
		return r, fmt.Errorf("limit: a report with %d demands, and %d are the most", len(m.GetDemands()), MaxDemands)
	}
	r = Report{Session: fsm.Session(m.GetSession()), Applied: m.GetApplied(), Number: m.GetNumber(), Complete: m.GetComplete()}
	for _, x := range m.GetDemands() {
		r.Demands = append(r.Demands, limits.Demand{
			Key: limits.Key(x.GetKey()), Kind: limits.Kind(min(x.GetKind(), 255)), Units: x.GetUnits(), Want: x.GetWant(), Used: x.GetUsed(),
			Window: time.Duration(x.GetPerS()) * time.Second, Each: x.GetEach(),
		})
	}
	return r, nil
}

// Encode gives the octets of an answer.
func (a Answer) Encode() ([]byte, error) {
	b, err := proto.Marshal(&controlv1.LimitAnswer{Leased: a.Leased, Index: a.Index})
	if err != nil {
		return nil, fmt.Errorf("limit: %w", err)
	}
	return b, nil
}

// DecodeAnswer reads what Encode made.
func DecodeAnswer(b []byte) (Answer, error) {
	var m controlv1.LimitAnswer
	if err := proto.Unmarshal(b, &m); err != nil {
		return Answer{}, fmt.Errorf("limit: an answer: %w", err)
	}
	return Answer{Leased: m.GetLeased(), Index: m.GetIndex()}, nil
}

// EncodeStatus gives the octets of the first of a list, as many as most.
func EncodeStatus(list []Status, most int) ([]byte, error) {
	m := &controlv1.LimitStatusAnswer{}
	size := 0
	for _, s := range list {
		x := &controlv1.LimitStatus{Key: string(s.Key), Kind: uint32(s.Kind), Of: s.Of, Even: s.Even}
		for _, n := range s.Nodes {
			x.Nodes = append(x.Nodes, &controlv1.LimitNode{Node: n.Node, Units: n.Units, Want: n.Want, Used: n.Used, Leased: n.Leased})
		}
		if size += proto.Size(x) + 4; size > most {
			break
		}
		m.Keys = append(m.Keys, x)
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("limit: %w", err)
	}
	return b, nil
}

// DecodeStatus reads what EncodeStatus made.
func DecodeStatus(b []byte) (list []Status, err error) {
	var m controlv1.LimitStatusAnswer
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("limit: a status: %w", err)
	}
	for _, x := range m.GetKeys() {
		s := Status{Key: limits.Key(x.GetKey()), Kind: limits.Kind(min(x.GetKind(), 255)), Of: x.GetOf(), Even: x.GetEven()}
		for _, n := range x.GetNodes() {
			s.Nodes = append(s.Nodes, NodeStatus{Node: n.GetNode(), Units: n.GetUnits(), Want: n.GetWant(), Used: n.GetUsed(), Leased: n.GetLeased()})
		}
		list = append(list, s)
	}
	return list, nil
}
