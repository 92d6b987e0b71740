// Package shape counts what is in the queue: recipients by domain and age, and
// recipients by why they are still there. It takes the queue in one pass, adds
// up what several nodes counted, and does no I/O.
//
// Its memory is bounded whatever the queue holds. Where there are more names
// than it can tell apart it keeps those with most recipients and says so; the
// totals are exact all the same.
package shape
