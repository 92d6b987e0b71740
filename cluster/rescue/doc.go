// Package rescue is for the day on which a cluster has lost more than it can
// bear. It works on the data_dir of a node that does not run:
//
//	Backup   reads the control plane: who owns which segment, the nodes, the
//	         configuration. No message is in it.
//	Recover  makes a node whose majority is lost for good a cluster of its own.
//	Restore  does the same with an earlier backup instead of what is there.
//	Rejoin   lets a node that the cluster went on without come back with its
//	         mail.
//
// Recover and Restore begin a new generation of the cluster. What only the lost
// nodes knew is gone with them, so the same entry of the log may now say
// something else than before. Hence ids and indexes jump, so that none is given
// twice; OPEN segments become RECOVERING; nodes of another generation are not
// talked to (packages raftnode, replica); every other node counts as removed,
// until it comes back and tells what its disk holds, which is then adopted.
//
// Nothing is deleted: the directory that was there is kept beside the new one.
// A change is one rename, so a crash leaves the old or the new.
package rescue
