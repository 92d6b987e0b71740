// Package config reads the two files an operator writes: node.yaml, which
// holds what differs from machine to machine, and cluster.yaml, which holds
// what all machines share.
//
// It is strict: an unknown or misspelt key, a wrong type, a bad value, a
// duplicate or missing key is an error with file, line, column, the source
// line and a caret, and a guess at what was meant. All errors of a file are
// reported at once, as Errors. A file with an error gives no configuration.
//
// A setting is described once, by its field in Node or Cluster: the struct tags
// say how it is read (key, default, enum, min, max, required, restart, secret), the
// comment above it is its documentation. Explain, the reference page
// docs/configuration.md and the example files are rendered from these.
//
// Only cmd imports this package: it turns the structs into the Options of the
// other packages. Nothing here is safe or meant to be changed after loading;
// there are no goroutines, and no state beyond the files that are read.
package config

//go:generate go test -count=1 -run ^TestComments$ -update .
//go:generate go test -count=1 -run ^TestPages$ -update .
