// Package returns gives mail a return path of its own and takes what comes
// back to it: bounces, complaints and answers of machines.
//
// Mail that the settings cover leaves with a reverse-path that names message
// and recipient and bears a MAC (address.go, deliver.go). What comes to such an
// address is taken by any node, goes through the spool like all mail, and is
// handed to this package by the queue where other mail is handed to a next hop
// (take.go): whatever becomes of the node, it is worked on until that is done.
//
// Returns stands in front of the deliverer, the router and the policy. It
// starts no goroutine, and its methods may be called by many.
package returns
