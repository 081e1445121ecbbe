// Example of version 2, for programs that exist.

package gipc_test

import (
	"errors"
	"fmt"
	"log"

	"example.com/gipc"
)

// Serve programs that speak version 2, and none other, until the last of them
// has gone. It authenticates nobody and permits replay: on a socket that only one
// user can reach that is bearable, on a network it is not.
func ExampleServerConfig_version2() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "old", Network: "unix", Address: address, Wire: gipc.WireV2})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	_, err = gipc.StartClient(&gipc.ClientConfig{Name: "old", Network: "unix", Address: address})
	fmt.Println("not by default:", errors.Is(err, gipc.ErrVersion))

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "old", Network: "unix", Address: address, AllowWireV2: true})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	fmt.Println(client.Status())

	server3, err := gipc.StartServer(&gipc.ServerConfig{Name: "new", Network: "unix", Address: address + "3", Wire: gipc.WireV3})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server3)
	both, err := gipc.StartClient(&gipc.ClientConfig{Name: "new", Network: "unix", Address: address + "3", AllowWireV2: true})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(both)
	fmt.Println(both.Status(), "to a server of version 3 as well")
	// Output:
	// not by default: true
	// Connected
	// Connected to a server of version 3 as well
}
