package control

import "fmt"

func (c Code) String() string {
	switch c {
	case OK:
		return "ok"
	case Malformed:
		return "malformed command"
	case LevelTooLow:
		return "needs a higher feature level of the cluster"
	case UnknownNode:
		return "no such node or store"
	case UnknownSegment:
		return "no such segment"
	case OldSession:
		return "not the newest session of the node"
	case WrongEpoch:
		return "the segment has changed since"
	case WrongState:
		return "not allowed in the present state"
	case NotMember:
		return "not a fresh member"
	case AlreadyMember:
		return "a member already"
	case RenewedSince:
		return "the session has renewed its lease since"
	case EndDiffers:
		return "the end is set to another value"
	case TooFewCopies:
		return "too few copies would remain"
	case WrongVersion:
		return "the version has changed since"
	case LimitReached:
		return "a limit is reached"
	case NodeNotAlive:
		return "the node is draining, drained, removed or lost"
	case StaleID:
		return "the session has opened this id or a higher one before"
	case FeatureMissing:
		return "not every node knows the feature level"
	case InventoryMissing:
		return "not every node has sent its inventory"
	case StillHolds:
		return "the node still holds segments"
	case OldNonce:
		return "a later process of the node has registered"
	case CopyLeft:
		return "a disk that is not known to be lost may have a copy"
	case Unchanged:
		return "nothing to change"
	}
	return fmt.Sprintf("code %d", uint8(c))
}
