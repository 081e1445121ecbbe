//go:build unix

package repotest

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

// startExampleChild starts the child of ./example/child with this process as its
// parent, and returns the socket and the child.
func startExampleChild(t *testing.T, bin string) (net.Conn, *exec.Cmd) {
	near, far := testutil.SocketPair(t)
	file, err := far.(*net.UnixConn).File()
	testutil.Must(t, err)
	cmd := exec.CommandContext(patience(t), filepath.Join(bin, "child"), "-child")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{file}, os.Stderr
	testutil.Must(t, cmd.Start())
	file.Close()
	far.Close()
	return near, cmd
}

// A parent that dies leaves an end of the stream behind, and a child that dies, too.
func TestExampleChildAndParentNoticeEachOthersEnd(t *testing.T) {
	t.Parallel()
	bin := buildPrograms(t)
	start := func(t *testing.T) (*gipc.Server, net.Conn, *exec.Cmd) {
		t.Helper()
		conn, cmd := startExampleChild(t, bin)
		server := startServer(t, &gipc.ServerConfig{Name: "child", Listener: gipc.ListenConn(conn)})
		reply, err := server.Call(patience(t), 1, []byte("text"))
		testutil.Must(t, err)
		if string(reply.Data) != "TEXT" {
			t.Errorf("the reply is %q", reply.Data)
		}
		return server, conn, cmd
	}
	t.Run("parent", func(t *testing.T) {
		t.Parallel()
		_, conn, cmd := start(t)
		conn.Close()
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("the child ends with %v, want exit code 1", err)
		}
	})
	t.Run("parent closes", func(t *testing.T) {
		t.Parallel()
		server, _, cmd := start(t)
		testutil.Must(t, server.Close())
		testutil.Must(t, cmd.Wait())
	})
	t.Run("child", func(t *testing.T) {
		t.Parallel()
		server, _, cmd := start(t)
		testutil.Must(t, cmd.Process.Kill())
		cmd.Wait()
		select {
		case <-server.Done():
		case <-patience(t).Done():
			t.Fatal("the server has not noticed the child's end")
		}
		testutil.WantErr(t, "Err", server.Err(), gipc.ErrClosed)
	})
}
