package fsm

import "github.com/clrelay/clrelay/proto/control"

// The nouns and the commands are those of package control, which says what
// each is.
type (
	StoreID        = control.StoreID
	Ref            = control.Ref
	SegmentID      = control.SegmentID
	Epoch          = control.Epoch
	Session        = control.Session
	SegmentState   = control.SegmentState
	Segment        = control.Segment
	NodeState      = control.NodeState
	NodeInfo       = control.NodeInfo
	Lease          = control.Lease
	Node           = control.Node
	Former         = control.Former
	Settings       = control.Settings
	Config         = control.Config
	Command        = control.Command
	Register       = control.Register
	Renew          = control.Renew
	Renewal        = control.Renewal
	SegmentOps     = control.SegmentOps
	OpKind         = control.OpKind
	SegmentOp      = control.SegmentOp
	NodeVerb       = control.NodeVerb
	NodeChange     = control.NodeChange
	ConfigApply    = control.ConfigApply
	SettingsApply  = control.SettingsApply
	FeatureRaise   = control.FeatureRaise
	GenerationBump = control.GenerationBump
	Record         = control.Record
	RecordPut      = control.RecordPut
	AuditEntry     = control.AuditEntry
	AuditAppend    = control.AuditAppend
	AuditMark      = control.AuditMark
	AuditLine      = control.AuditLine
	SeatState      = control.SeatState
	Seat           = control.Seat
	Roster         = control.Roster
	Part           = control.Part
	Division       = control.Division
	ShareOps       = control.ShareOps
	ShareOp        = control.ShareOp
	BudgetOps      = control.BudgetOps
	BudgetGrant    = control.BudgetGrant
	Budget         = control.Budget
	BudgetPart     = control.BudgetPart
	Limits         = control.Limits
	SuppressOps    = control.SuppressOps
	Code           = control.Code
	OpResult       = control.OpResult
	Result         = control.Result
)

// The bounds, the states, the operations and the outcomes.
const (
	MaxOps           = control.MaxOps
	MaxMembers       = control.MaxMembers
	MaxOpen          = control.MaxOpen
	MaxSegments      = control.MaxSegments
	MaxWrittenOff    = control.MaxWrittenOff
	MaxNodes         = control.MaxNodes
	MaxCommand       = control.MaxCommand
	MaxText          = control.MaxText
	MaxConfigText    = control.MaxConfigText
	MaxReason        = control.MaxReason
	KeepConfigs      = control.KeepConfigs
	MinG             = control.MinG
	MaxG             = control.MaxG
	Open             = control.Open
	Recovering       = control.Recovering
	Sealed           = control.Sealed
	Alive            = control.Alive
	Draining         = control.Draining
	Drained          = control.Drained
	Removed          = control.Removed
	MaxSegmentN      = control.MaxSegmentN
	MaxGeneration    = control.MaxGeneration
	OpOpen           = control.OpOpen
	OpSeal           = control.OpSeal
	OpReassign       = control.OpReassign
	OpRecovered      = control.OpRecovered
	OpStale          = control.OpStale
	OpFresh          = control.OpFresh
	OpAddMember      = control.OpAddMember
	OpRemoveMember   = control.OpRemoveMember
	OpTransfer       = control.OpTransfer
	OpGone           = control.OpGone
	OpAdopt          = control.OpAdopt
	OpWriteOff       = control.OpWriteOff
	NodeDrain        = control.NodeDrain
	NodeDrained      = control.NodeDrained
	NodeResume       = control.NodeResume
	NodeRemove       = control.NodeRemove
	NodeLost         = control.NodeLost
	NodeInventoried  = control.NodeInventoried
	Entering         = control.Entering
	Seated           = control.Seated
	Leaving          = control.Leaving
	MaxSeats         = control.MaxSeats
	OK               = control.OK
	Malformed        = control.Malformed
	LevelTooLow      = control.LevelTooLow
	UnknownNode      = control.UnknownNode
	UnknownSegment   = control.UnknownSegment
	OldSession       = control.OldSession
	WrongEpoch       = control.WrongEpoch
	WrongState       = control.WrongState
	NotMember        = control.NotMember
	AlreadyMember    = control.AlreadyMember
	RenewedSince     = control.RenewedSince
	EndDiffers       = control.EndDiffers
	TooFewCopies     = control.TooFewCopies
	WrongVersion     = control.WrongVersion
	LimitReached     = control.LimitReached
	NodeNotAlive     = control.NodeNotAlive
	StaleID          = control.StaleID
	FeatureMissing   = control.FeatureMissing
	InventoryMissing = control.InventoryMissing
	StillHolds       = control.StillHolds
	OldNonce         = control.OldNonce
	CopyLeft         = control.CopyLeft
	Unchanged        = control.Unchanged
)

// MakeSegmentID returns the id of the n-th segment opened by a session, n from
// 1 to MaxSegmentN.
func MakeSegmentID(s Session, n uint32) SegmentID { return control.MakeSegmentID(s, n) }
