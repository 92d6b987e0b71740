package sched

import "github.com/clrelay/clrelay/delivery/queue/sched/settings"

// Config holds the scheduler's limits. The zero value of a field means its
// default.
type Config = settings.Config

// tickMax bounds how many due recipients one step takes from the timer.
const tickMax = 1024

// unparkMax bounds how many greedy lanes are looked at when a slot gets free.
const unparkMax = 8

// batchWalk bounds how far a transaction looks for more of its recipients.
const batchWalk = 1024
