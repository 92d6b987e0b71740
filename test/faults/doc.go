// Package faults hurts clusters of real processes under load and holds them to
// their word: what was answered 250 arrives, and more than once only where
// that was counted; no two nodes deliver the same at the same time; who has no
// quorum takes nothing. With root the nodes live in network namespaces of
// their own and on disks of their own, so that links and power can be cut.
//
// Which faults come, at whom and for how long follows from a seed.
//
// # What is covered
//
// The faults that a clustered relay has to survive, and who does them to a
// cluster of real processes. Names in small letters are of the catalogue.
//
//	killed at any time            kill, kill-leader, kill-two, kill-all
//	power loss, one and all       power, power-all
//	machine lost with its disk    lose-disk, take-over, take-over-leader
//	fsync fails once              sync-fails
//	disk full                     disk-full; not: without inodes
//	disk turns read-only          read-only
//	disk slow                     slow-disk, slow-disk-leader
//	damage on the disk            bit-flips; not: cut off or empty files
//	old copy of a data_dir        old-copy
//	partitions                    isolate, isolate-leader, link, deaf, mute, one-way-link,
//	                              all-apart, flap; not: rings of more than three
//	bad links                     loss, slow; not: delay, which the kernels at hand cannot do
//	half-open connections         every partition drops without a word
//	stopped for up to 20 s        pause, pause-leader, pause-two, pause-and-kill
//	no quorum                     kill-two, all-apart; TestRecoverFromLostQuorum
//	nodes come, go, change        drain, drain-and-kill, rolling-restart, stop; Upgrade
//	processor, descriptors        starve, few-files; out of memory is a kill
//	certificates                  certificates
//
// Not here at all: jumps of the wall clock (package sim has clocks that go at
// different rates), disks that fail apart from each other, a backlog of 100,000
// messages in a cluster, and what next hops and DNS do, which is tried on one
// machine in package system.
package faults
