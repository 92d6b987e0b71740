package segment

import "fmt"

// String renders an action for traces.
func (a Action) String() string {
	if a.Kind == ActSend {
		return fmt.Sprintf("send %s %v", a.Peer.Node, a.Item)
	}
	return fmt.Sprintf("action %d %v@%v peer=%s %d-%d token=%d ops=%v %s", a.Kind, a.Segment, a.Epoch, a.Peer.Node, a.First, a.Seq, a.Token, a.Ops, a.Why)
}
