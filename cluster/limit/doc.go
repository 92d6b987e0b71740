// Package limit is what the leader of Raft does for limits: it decides how the
// units of each key are divided between the nodes, so that the nodes together
// never use more than there are, and each gets what it needs as far as there is
// enough. It also says what the nodes tell the leader, and what it answers.
//
// A [Machine] is a step function: what happened goes in as an [Event], what is
// to be done comes out as [Action]s; time comes in as an argument. On a follower
// it does nothing.
//
// For each key and node the machine keeps what the node may still be using: the
// most it was given since it last told that it had a newer division in force. No
// entry is proposed by which these would be more than the key. A node that was
// not heard for Silent has no lease any more, and uses its floor at most, which
// is kept for it in every division. What was decided counts only within the
// reign it was decided in (see fsm.ShareOps): a new leader begins one, and for
// Silent from there takes every node for one that may use anything, until it
// reports. DESIGN.md says what breaks without each of these rules.
package limit
