// Package strict reads a YAML file into a struct and takes nothing amiss in
// silence: an unknown or misspelt key, a wrong type, a bad value, a duplicate
// or missing key is an error with file, line, column, the source line and a
// caret, and a guess at what was meant. All errors are collected.
//
// The struct describes the file by the tags of its fields, which Fields reads:
//
//	key       the key in the file; a field without one is no setting
//	default   its default as a file would write it
//	derived   its default in words, where it depends on something
//	required  it must be there
//	enum      the words that are allowed, "a|b"
//	off       the word that stands for nothing
//	min, max  bounds of a number or of a Scalar that is one
//	restart   a change needs a restart
//	example   a value for the documentation
//
// It knows no setting: package config, which has them, is its only caller.
// Anchors, aliases, tags and merge keys are refused before anything is
// expanded, and size and nesting are bounded, so that no file costs more than
// reading it. A File belongs to one goroutine.
package strict
