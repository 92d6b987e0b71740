// Package faults hurts clusters of real processes under load and holds them to
// their word: what was answered 250 arrives, and more than once only where
// that was counted; no two nodes deliver the same at the same time; who has no
// quorum takes nothing. With root the nodes live in network namespaces of
// their own and on disks of their own, so that links and power can be cut.
//
// Which faults come, at whom and for how long follows from a seed.
package faults
