// Package sys holds what differs by operating system: descriptors that are read
// and written without waiting, lock files, socket files, owners of files, and the
// credentials of peers on unix sockets. Every function exists on every system. A
// function that a system has no means for does nothing, and its comment says so.
package sys

// Credentials are the user, the group and the process that the kernel reports
// for the other end of a unix socket.
type Credentials struct{ UID, GID, PID int }
