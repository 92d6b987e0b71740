// Package control is what the cluster decides about, as plain data: the nouns
// (nodes, sessions, leases, segments), the commands that change them and the
// outcomes of commands. Package cluster/fsm gives them their meaning and their
// encoding, control.v1, and gives the same names to those who build on it.
package control
