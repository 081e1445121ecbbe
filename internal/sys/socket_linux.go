// Linux: the mode of a socket file, and the peer's credentials.

package sys

import (
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"
)

// BindsInPlace is true on systems where a socket file has its final name from the
// beginning. On Linux the kernel knows a socket by the name it was bound to, and
// programs that remove old files look there for sockets in use.
const BindsInPlace = true

const openPath = 0x200000 // O_PATH, which the syscall package lacks

// BeforeBind returns a Control function of a net.ListenConfig. On Linux it gives
// the socket its mode before the socket is in a directory; bind then takes the
// bits of the umask away. On other systems it does nothing.
func BeforeBind(mode os.FileMode) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if failed := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), uint32(mode.Perm())) }); failed != nil {
			return failed
		}
		return err
	}
}

// AfterBind returns the identity of the socket file at path, which this process
// has just bound. On Linux it also gives the file the bits of mode that the umask
// took away, through a descriptor and not through the name, and only if the file
// is a socket of this process's user.
func AfterBind(path string, mode os.FileMode) (os.FileInfo, error) {
	fd, err := syscall.Open(path, openPath|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.Mode()&os.ModeSocket == 0:
		return nil, errors.New("the new socket was replaced by a file of another kind")
	case info.Mode().Perm() == mode.Perm():
		return info, nil
	case ownerNumber(info) != os.Geteuid():
		return nil, fmt.Errorf("the new socket has mode %o and belongs to user %d, so its mode cannot be made %o", info.Mode().Perm(), ownerNumber(info), mode.Perm())
	}
	// If the number stands for other users, too, the kernel refuses their files.
	if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode.Perm()); err != nil {
		return nil, fmt.Errorf("the new socket has mode %o, and its mode cannot be made %o: %w", info.Mode().Perm(), mode.Perm(), err)
	}
	return info, nil
}

// PeerCredentials returns the credentials of the process at the other end of the
// unix socket c. ok is false if the kernel does not report them, or if one of them
// has no number in this process's namespaces. On systems other than Linux it
// always is.
func PeerCredentials(c syscall.Conn) (peer Credentials, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Credentials{}, false
	}
	raw.Control(func(fd uintptr) {
		u, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		if err == nil && isKnown(u) {
			peer, ok = Credentials{int(u.Uid), int(u.Gid), int(u.Pid)}, true
		}
	})
	return peer, ok
}

// isKnown reports whether u names a user, a group and a process. A socket without
// a peer has the user MaxUint32. A process of another PID namespace has PID 0.
func isKnown(u *syscall.Ucred) bool {
	return u.Uid != math.MaxUint32 && u.Pid != 0 && (inInitialNamespace() || !isUnmapped(u.Uid, userIDs) && !isUnmapped(u.Gid, groupIDs))
}
