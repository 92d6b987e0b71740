// Package ask lets the nodes of a cluster put questions to each other: a
// question, an answer, in turn on one connection that has been authenticated
// before. Package raftnode asks leaders for proposals with it, servers how they
// are, and so on; what kinds of questions there are is its business.
//
//	question = length of the rest (4 octets), kind, milliseconds to live (4 octets), body
//	answer   = length of the rest (4 octets), status, body
//
// Whoever asks learns the difference between a question that never left
// (ErrNotAsked), one that was answered, and one of which nobody knows. A question
// takes memory only as its octets arrive; connections, questions under way and
// the time for each are bounded. Server and Pool are safe for many goroutines and
// end theirs with Stop and Close.
package ask
