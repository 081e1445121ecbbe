// Addresses of servers: TCP addresses, the paths of sockets, and the environment.

package gipc

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"example.com/gipc/internal/eventlog"
	"example.com/gipc/internal/sys"
)

const hintChooseOther = "choose another Name, Address or GIPC_SOCKET_DIR"

// tcpAddress returns the configured address, or that of the environment.
func tcpAddress(address string) (string, error) {
	from := "Address"
	if address == "" {
		from = "GIPC_NETWORK_HOST with GIPC_NETWORK_PORT"
		address = net.JoinHostPort(cmp.Or(os.Getenv("GIPC_NETWORK_HOST"), "127.0.0.1"), cmp.Or(os.Getenv("GIPC_NETWORK_PORT"), "8100"))
	}
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return "", newError(ErrConfig, err, "%s is %q: on tcp give a host and a port from 0 to 65535", from, address)
	}
	return address, nil
}

// A socketPlace is a possible path of the socket of a name.
type socketPlace struct {
	path    string
	derived bool // derived from Name alone, without Address and GIPC_SOCKET_DIR
	private bool // in the directory that only this user may enter
}

// socketPlaces returns the possible paths of a socket. A server uses the first one, a
// client tries all of them. They are absolute, so a later change of the working
// directory has no effect.
func socketPlaces(name, address, base string, unmask bool) ([]socketPlace, error) {
	if strings.HasPrefix(address, "@") || strings.ContainsRune(address, 0) {
		return nil, fieldError("Address", fmt.Sprintf("%q", address), "abstract sockets have no permissions and are not used: give a path")
	}
	file, dir := name+".sock", os.Getenv("GIPC_SOCKET_DIR")
	if runtime.GOOS == "windows" { // the directory is private to the user
		dir = cmp.Or(dir, base, os.TempDir())
	}
	base = cmp.Or(base, "/tmp")
	var places []socketPlace
	switch {
	case address != "":
		places = []socketPlace{{path: address}}
	case dir != "":
		places = []socketPlace{{path: filepath.Join(dir, file)}}
	default:
		if !unmask {
			places = []socketPlace{{filepath.Join(base, fmt.Sprint("gipc-", os.Geteuid()), file), true, true}}
		}
		places = append(places, socketPlace{filepath.Join(base, file), true, false})
	}
	for i := range places {
		path, err := filepath.Abs(places[i].path)
		if err != nil {
			return nil, newError(ErrConfig, err, "Address or GIPC_SOCKET_DIR is relative: give an absolute path")
		}
		places[i].path = path
	}
	return places, places[len(places)-1].checkLength() // the shortest
}

func (p socketPlace) checkLength() error {
	if len(p.path) > sys.MaxSocketPath {
		return newError(ErrConfig, nil, "the socket path %s has %d bytes and the system's limit is %d: "+hintChooseOther, p.path, len(p.path), sys.MaxSocketPath)
	}
	return nil
}

// prepare checks the directory of a server's socket, and makes the private one.
func (p socketPlace) prepare(logger *eventlog.Log) error {
	if err := p.checkLength(); err != nil {
		return err
	}
	dir := filepath.Dir(p.path)
	if !p.derived {
		if isOpenToAll(dir) {
			logger.Warn("socket directory is writable by every user and not sticky: other users can replace the socket", "dir", dir)
		}
		return nil
	}
	if p.private {
		if err := makePrivate(dir); err != nil {
			return err
		}
	}
	return p.checkDirectory()
}

// checkDirectory refuses a directory in which other users can replace the socket
// of a name. The error is ErrNotExist if there is no directory.
func (p socketPlace) checkDirectory() error {
	dir := filepath.Dir(p.path)
	base := dir
	if p.private {
		if err := checkPrivate(dir); err != nil {
			return err
		}
		base = filepath.Dir(dir)
	}
	if p.derived && isOpenToAll(base) {
		return newError(ErrConfig, nil, "%s is writable by every user and not sticky, so that other users can replace a socket in it: run chmod +t on it, or set Address or GIPC_SOCKET_DIR", base)
	}
	return nil
}

// isOpenToAll reports whether every user can remove and rename the files in dir.
func isOpenToAll(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o002 != 0 && info.Mode()&os.ModeSticky == 0
}

// makePrivate makes a directory that only this user may enter, if there is none.
func makePrivate(dir string) error {
	err := os.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil // checkPrivate checks it
	case err != nil:
		return newError(ErrConfig, err, "cannot make the directory of the socket: set Address or GIPC_SOCKET_DIR")
	}
	return nil
}

// checkPrivate refuses a directory that another user made or may enter.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return newError(ErrConfig, err, "cannot use the directory of the socket: set Address or GIPC_SOCKET_DIR")
	case !info.IsDir() || sys.OwnerOf(info) != os.Geteuid() || info.Mode().Perm()&0o077 != 0:
		return newError(ErrConfig, nil, "%s is not a directory that user %d alone may enter (it belongs to %s and has mode %s): remove it or run chmod 700 on it, or set Address or GIPC_SOCKET_DIR",
			dir, os.Geteuid(), userText(sys.OwnerOf(info)), info.Mode())
	}
	return nil
}

// keepsBoundaries reports whether connections of the network keep message
// boundaries.
func keepsBoundaries(network string) bool {
	return network == "unixpacket" || network == "unixgram" || strings.HasPrefix(network, "udp") || strings.HasPrefix(network, "ip")
}

// userText returns the name of a user for an error text.
func userText(user int) string {
	if user < 0 {
		return "a user that has no number here"
	}
	return fmt.Sprintf("user %d", user)
}
