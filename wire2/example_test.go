// Remove the line above when both configs have Upgrade.

package wire2_test

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"

	"example.com/gipc"
	"example.com/gipc/wire2"
)

// tempAddress returns the path of a socket in a new folder, and its removal.
func tempAddress() (address string, remove func()) {
	dir, err := os.MkdirTemp("", "w")
	if err != nil {
		log.Fatal(err)
	}
	return filepath.Join(dir, "s"), func() { os.RemoveAll(dir) }
}

func startServer(address string, upgrade func(net.Conn) (net.Conn, error)) *gipc.Server {
	server, err := gipc.StartServer(&gipc.ServerConfig{
		Name:       "old",
		Network:    "unix",
		Address:    address,
		Encryption: gipc.EncryptionOff, // Upgrade encrypts
		Upgrade:    upgrade,
	})
	if err != nil {
		log.Fatal(err)
	}
	return server
}

// A server for programs that speak version 2, and no others.
func ExampleServer() {
	address, remove := tempAddress()
	defer remove()
	server := startServer(address, func(conn net.Conn) (net.Conn, error) {
		return wire2.Server(conn, wire2.Options{Encryption: true})
	})
	defer server.Close()

	// A client of version 3 is refused.
	_, err := gipc.StartClient(&gipc.ClientConfig{Name: "old", Network: "unix", Address: address, Encryption: gipc.EncryptionOff})
	fmt.Println(errors.Is(err, gipc.ErrVersion))
	// Output:
	// true
}

// A client for a server of version 2 or 3, whichever runs.
func ExampleClient() {
	address, remove := tempAddress()
	defer remove()
	server := startServer(address, func(conn net.Conn) (net.Conn, error) {
		return wire2.Server(conn, wire2.Options{Encryption: true})
	})
	defer server.Close()

	client, err := gipc.StartClient(&gipc.ClientConfig{
		Name:       "old",
		Network:    "unix",
		Address:    address,
		Encryption: gipc.EncryptionOff, // Upgrade requires encryption
		Upgrade: func(conn net.Conn) (net.Conn, error) {
			return wire2.Client(conn, wire2.Options{Encryption: true})
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Write(1, []byte("hello")); err != nil {
		log.Fatal(err)
	}
	for message, err := server.Read(); ; message, err = server.Read() {
		if err != nil {
			log.Fatal(err)
		}
		if message.MsgType == 1 {
			fmt.Printf("%s\n", message.Data)
			break
		}
	}
	if err := client.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// hello
}
