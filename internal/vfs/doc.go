// Package vfs holds the narrow set of file operations that the relay's stores
// are built on, in three versions: the operating system (OS), memory with
// power failures (Mem), and a wrapper that makes any of them fail by rule
// (Fault).
//
// It is no general file system: it has what an append-only log and a few
// small files beside it need, with every step that decides about durability
// (Sync, SyncDir) as a call of its own. Nothing is synced behind the caller's
// back and nothing is retried but interrupted system calls.
//
// Callers are the spool and its log, and whoever else keeps state in data_dir.
// An FS may be used from many goroutines; of a File, reads and writes may run
// at the same time, Close only after them. Errors are those of the os package
// (errors.Is with fs.ErrNotExist, fs.ErrExist, syscall.EIO and so on).
package vfs
