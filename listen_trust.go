// Whose server a client on a unix socket talks to, and who a peer is.

package gipc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"example.com/gipc/internal/sys"
)

// permissionTime is how long permission may be missing: a server that has just
// started sets the mode of its socket in less.
const permissionTime = 50 * time.Millisecond

const maxLinks = 40 // symbolic links on one path, as on Linux

// hintTrust are the ways to talk to another user's server.
const hintTrust = "set the same Secret on both sides, or AllowAnyUser here"

// socketRoute is a path of a socket and where it leads to.
type socketRoute struct {
	path   string
	target string      // path without symbolic links, or path if it leads nowhere
	info   os.FileInfo // of the file there, or nil
	err    error       // a symbolic link on the path cannot be trusted
}

// routeTo follows the symbolic links of a path.
func routeTo(path string) *socketRoute {
	r := &socketRoute{path: path, target: path}
	if runtime.GOOS == "windows" {
		return r
	}
	target, err := followLinks(path)
	switch {
	case err == nil:
		r.target = target
		r.info, _ = os.Lstat(target)
	case errors.Is(err, ErrUntrustedServer):
		r.err = err
	}
	return r
}

// followLinks returns an absolute path without its symbolic links. A link counts
// only if this user or root has made it, because its maker chooses the server.
func followLinks(path string) (string, error) {
	done, links := string(filepath.Separator), 0
	for rest := path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, string(filepath.Separator))
		next := filepath.Join(done, name) // with name ".." the directory above, which is none of a link
		info, err := os.Lstat(next)
		if err != nil {
			return "", err
		}
		if info.Mode()&os.ModeSymlink == 0 {
			done = next
			continue
		}
		if owner := sys.OwnerOf(info); !isTrusted(owner) {
			return "", fail(ErrUntrustedServer, nil, "%s on the way to unix %s is a link of user %d, and this client runs as user %d: remove the link, "+hintTrust, next, path, owner, os.Geteuid())
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s has too many links", path)
		}
		link, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if rest = link + string(filepath.Separator) + rest; filepath.IsAbs(link) {
			done = string(filepath.Separator)
		}
	}
	return done, nil
}

// isTrusted reports whether a client trusts a server, or a link, of the user.
func isTrusted(user int) bool { return user == 0 || user >= 0 && user == os.Geteuid() }

// dial connects to the target, since the path itself may lead elsewhere by now. A
// permission that is missing is looked for once more: a server that has just
// started may be about to give it.
func (r *socketRoute) dial(ctx context.Context) (net.Conn, error) {
	target := r.target
	if len(target) > sys.MaxSocketPath {
		target = r.path
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", target)
	if errors.Is(err, fs.ErrPermission) {
		select {
		case <-time.After(permissionTime):
			c, err = new(net.Dialer).DialContext(ctx, "unix", target)
		case <-ctx.Done():
		}
	}
	return c, err
}

// checkServer returns an error unless the server is this user's or root's: by the
// credentials from the kernel, otherwise by the owner of the socket file.
func (r *socketRoute) checkServer(peer Peer) error {
	if r.err != nil {
		return r.err
	}
	user := peer.UID
	after := routeTo(r.path)
	switch {
	case after.err != nil:
		return after.err
	case after.target != r.target:
		return fmt.Errorf(errorPrefix+"unix %s was replaced while this client connected to it", r.path)
	case peer.Known:
	case r.info == nil || !os.SameFile(r.info, after.info):
		return fmt.Errorf(errorPrefix+"unix %s was replaced while this client connected to it", r.path)
	default:
		user = sys.OwnerOf(after.info)
	}
	if !isTrusted(user) {
		return fail(ErrUntrustedServer, nil, "the server at unix %s runs as %s and this client as user %d: "+hintTrust, r.path, userText(user), os.Geteuid())
	}
	return nil
}

// peerOf returns who is at the other end of c.
func peerOf(c net.Conn) Peer {
	p := Peer{UID: -1, GID: -1, PID: -1, Addr: c.RemoteAddr()}
	if sc, ok := c.(syscall.Conn); ok && p.Addr != nil && p.Addr.Network() == "unix" {
		if c, ok := sys.PeerCredentials(sc); ok {
			p.UID, p.GID, p.PID, p.Known = c.UID, c.GID, c.PID, true
		}
	}
	return p
}

// loggedPeer is a Peer in the log: a client on a unix socket has no address.
type loggedPeer Peer

func (p loggedPeer) LogValue() slog.Value {
	where := ""
	if addr, ok := p.Addr.(*net.UnixAddr); ok && p.Known && len(addr.Name) < 2 { // "" or "@"
		where = fmt.Sprintf("user %d, process %d", p.UID, p.PID)
	} else if p.Addr != nil {
		where = p.Addr.String()
	}
	if p.Identity != "" {
		where += fmt.Sprintf(", identity %q", p.Identity)
	}
	return slog.StringValue(where)
}
