// Systems other than Linux: the standard library does not give access to the
// peer's credentials, and a socket has no mode before it has a name.

//go:build !linux

package sys

import (
	"os"
	"runtime"
	"syscall"
)

// BindsInPlace is true on systems where a socket file has its final name from the
// beginning. Windows does not promise that a bound socket can be renamed, and
// knows no modes.
const BindsInPlace = runtime.GOOS == "windows"

// BeforeBind returns a function that does nothing on this system.
func BeforeBind(os.FileMode) func(network, address string, c syscall.RawConn) error {
	return func(string, string, syscall.RawConn) error { return nil }
}

// AfterBind returns the identity of the socket file at path. It leaves the mode.
func AfterBind(path string, _ os.FileMode) (os.FileInfo, error) { return os.Lstat(path) }

// PeerCredentials always returns false on this system.
func PeerCredentials(syscall.Conn) (peer Credentials, ok bool) { return Credentials{}, false }
