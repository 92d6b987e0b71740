// Package local holds a node to its part of all limits: it implements
// limit.Local.
//
// A token is taken when a message goes out and no earlier. What is reserved
// takes none: it bounds how many are under way. So a message that goes out late
// is not paid for early, in a bucket that has filled up again since, and in any
// window no more goes out than the burst and what the rate gives.
//
// What the node gets on top of its part starts empty, and of what is taken from
// it no token stays: whoever gives and whoever takes never spend the same. A
// process that has just begun, and a key or a limit that is new to it, begin as
// if they had been emptied then.
//
// One message that is larger than the node's part of the burst goes when the
// bucket is full, and the rest is owed; by so much a limit of recipients or
// octets can be exceeded at once.
package local
