// Examples of users and of sockets that others made, where systems have them.

package gipc_test

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"

	"example.com/gipc"
)

// Authorize by user: the kernel says who has called connect.
func ExampleServerConfig_user() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{
		Name: "private", Network: "unix", Address: address,
		UnmaskPermissions: true, // let every user try
		Authorize: func(peer gipc.Peer) error {
			if !peer.Known || peer.UID != os.Geteuid() {
				return fmt.Errorf("user %d does not run this server", peer.UID)
			}
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "private", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	fmt.Println(client.Status())
	// Output:
	// Connected
}

// Who is there. On systems other than Linux, and on TCP, Known is false and the
// numbers are -1.
func ExampleClient_Peer() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)

	peer := client.Peer()
	fmt.Println("known:", peer.Known)
	fmt.Println("our user and group:", peer.UID == os.Geteuid(), peer.GID == os.Getegid())
	fmt.Println("this very process:", peer.PID == os.Getpid()) // for logs: do not decide by it
	fmt.Println("at the socket:", peer.Addr.String() == address)
	// Output:
	// known: true
	// our user and group: true true
	// this very process: true
	// at the socket: true
}

// A server and a client of two users who are meant to talk: the server opens
// the socket to all, and the client says that it expects another user's server.
// A Secret on both sides does that, too, and keeps strangers out.
func ExampleServerConfig_unmaskPermissions() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "open", Network: "unix", Address: address, UnmaskPermissions: true})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	info, err := os.Stat(address)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Mode().Perm())

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "open", Network: "unix", Address: address, AllowAnyUser: true})
	if errors.Is(err, gipc.ErrUntrustedServer) {
		log.Fatal(err) // what it would be without AllowAnyUser and without a Secret
	} else if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	fmt.Println(client.Status())
	// Output:
	// -rwxrwxrwx
	// Connected
}

// A socket from systemd: its file stays when the server closes, for the next
// connection to start the program again.
func ExampleServerConfig_systemd() {
	address, remove := socket()
	defer remove()

	file := systemd(address) // os.NewFile(3, "socket") in a unit with a ListenStream
	listener, err := net.FileListener(file)
	if err != nil {
		log.Fatal(err)
	}
	file.Close() // the listener has its own
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "unit", Listener: listener})
	if err != nil {
		log.Fatal(err)
	}

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "unit", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.Status())
	mustClose(client)

	mustClose(server)
	_, err = os.Stat(address)
	fmt.Println("the socket's file is still there:", err == nil)
	// Output:
	// Connected
	// the socket's file is still there: true
}

// systemd stands for systemd: it returns a socket that listens.
func systemd(address string) *os.File {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		log.Fatal(err)
	}
	defer listener.Close()
	listener.SetUnlinkOnClose(false)
	file, err := listener.File()
	if err != nil {
		log.Fatal(err)
	}
	return file
}
