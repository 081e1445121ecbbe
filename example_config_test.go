// Examples of what both configurations can say: secrets, who may connect, limits,
// logs, time.

package gipc_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"example.com/gipc"
)

// A secret from a file that only its user can read. Over a network both sides
// need the same one; make it by: head -c 32 /dev/urandom > secret
func ExampleServerConfig_secret() {
	address, remove := socket()
	defer remove()
	file := filepath.Join(filepath.Dir(address), "secret")
	random := make([]byte, 32)
	rand.Read(random)
	if err := os.WriteFile(file, random, 0o600); err != nil {
		log.Fatal(err)
	}

	secret, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "vault", Network: "unix", Address: address, Secret: secret})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	for _, try := range []struct {
		who    string
		secret []byte
	}{
		{"the same", secret},
		{"another", append([]byte("no"), secret...)},
		{"none", nil},
		{"a short one", []byte("password")},
	} {
		client, err := gipc.StartClient(&gipc.ClientConfig{Name: "vault", Network: "unix", Address: address, Secret: try.secret})
		switch {
		case err == nil:
			fmt.Println(try.who, "connects")
			mustClose(client)
		case errors.Is(err, gipc.ErrSecret):
			fmt.Println(try.who, "does not get in")
		case errors.Is(err, gipc.ErrConfig):
			fmt.Println(try.who, "is not accepted:", err)
		}
	}
	// Output:
	// the same connects
	// another does not get in
	// none does not get in
	// a short one is not accepted: gipc: bad configuration: Secret is 8 bytes long: give 32 random bytes or more, or nil for none
}

// Plaintext, for a socket that only one user can reach. The server decides; a
// client refuses a server without encryption unless it is told to follow.
func ExampleServerConfig_encryption() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "plain", Network: "unix", Address: address, Encryption: gipc.EncryptionOff})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	_, err = gipc.StartClient(&gipc.ClientConfig{Name: "plain", Network: "unix", Address: address, Encryption: gipc.EncryptionOn})
	fmt.Println("refused:", errors.Is(err, gipc.ErrEncryption))

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "plain", Network: "unix", Address: address, Encryption: gipc.EncryptionOff})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.Status())
	mustClose(client)
	// Output:
	// refused: true
	// Connected
}

// Let a function decide who gets in. It sees a client before anything is read from
// it. The user example shows what a unix socket tells about its peer.
func ExampleServerConfig_authorize() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	own := func(peer gipc.Peer) error {
		if address, ok := peer.Addr.(*net.TCPAddr); !ok || !address.IP.IsLoopback() {
			return errors.New("not from this machine")
		}
		return nil
	}
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "local", Listener: listener, Authorize: own})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "local", Network: "tcp", Address: listener.Addr().String()})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	fmt.Println(client.Status())
	// Output:
	// Connected
}

// Serve no more than so many clients at once. A client that finds the server
// full tries again until its Timeout.
func ExampleServerConfig_maxClients() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{
		Name: "booth", Network: "unix", Address: address, MultiClient: true, MaxClients: 1,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	go server.Connections.Serve(context.Background(), func(*gipc.Server, *gipc.Message) {})

	first, err := gipc.StartClient(&gipc.ClientConfig{Name: "booth", Network: "unix", Address: address})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(first)
	_, err = gipc.StartClient(&gipc.ClientConfig{Name: "booth", Network: "unix", Address: address, Timeout: 500 * time.Millisecond})
	fmt.Println("timed out:", errors.Is(err, gipc.ErrTimeout), "- since the server was full:", errors.Is(err, gipc.ErrRefused))
	// Output:
	// timed out: true - since the server was full: true
}

// Limit the size of what is accepted, 3 MiB by default. See SizeError for the
// sender's side.
func ExampleServerConfig_maxMsgSize() {
	address, remove := socket()
	defer remove()

	defer visit(&gipc.ClientConfig{Name: "big", Network: "unix", Address: address}, string(make([]byte, 4<<20)))()
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "big", Network: "unix", Address: address, MaxMsgSize: 64 << 20})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)

	for message, err := range server.Messages(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(len(message.Data)>>20, "MiB")
		break
	}
	// Output:
	// 4 MiB
}

// A log of what an end does and refuses: never what is in a message. Without a
// Logger, GIPC_DEBUG=info in the environment does the same on standard error.
func ExampleServerConfig_logger() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "logged", Network: "unix", Address: address, Logger: logger("server")})
	if err != nil {
		log.Fatal(err)
	}
	mustClose(server)
	// Output:
	// level=INFO msg=listening side=server name=logged
	// level=INFO msg=closed side=server name=logged err=<nil>
}

// A client's log has each of its connections.
func ExampleClientConfig_logger() {
	address, remove := socket()
	defer remove()
	defer echo(address)()

	client, err := gipc.StartClient(&gipc.ClientConfig{Name: "echo", Network: "unix", Address: address, Logger: logger("client")})
	if err != nil {
		log.Fatal(err)
	}
	mustClose(client)
	// Output:
	// level=INFO msg=connected side=client name=echo id=1 encrypted=true hybrid=true
	// level=INFO msg=closed side=client name=echo err=<nil>
}

// logger writes to standard output what is the same in every run.
func logger(side string) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelInfo,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			switch a.Key {
			case slog.TimeKey, "address", "peer":
				return slog.Attr{}
			}
			return a
		},
	})).With("side", side)
}

// Detect a peer that vanished silently: a network that was cut, a machine that
// was switched off. On TCP this is on by default, with 15 s.
func ExampleServerConfig_heartbeat() {
	address, remove := socket()
	defer remove()

	config := &gipc.ServerConfig{Name: "pulse", Network: "unix", Address: address, Heartbeat: 100 * time.Millisecond}
	_, err := gipc.StartServer(config)
	fmt.Println(err)

	config.Heartbeat = 5 * time.Second // a client is lost when nothing came from it for 10 s
	server, err := gipc.StartServer(config)
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	client, err := gipc.StartClient(&gipc.ClientConfig{
		Name: "pulse", Network: "unix", Address: address,
		Heartbeat: -1, // each side's own: this one asks nobody, and answers
	})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	fmt.Println(client.Status())
	// Output:
	// gipc: bad configuration: Heartbeat is 100ms: give 1 s or more, 0 for the default, or a negative time for none
	// Connected
}

// Spend CPU to cut latency: before a reader sleeps it polls the socket.
// It pays where both sides have a processor to themselves.
func ExampleServerConfig_busyPoll() {
	address, remove := socket()
	defer remove()

	server, err := gipc.StartServer(&gipc.ServerConfig{
		Name: "quick", Network: "unix", Address: address,
		BusyPoll: 50 * time.Microsecond,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(server)
	go func() {
		for message, err := range server.Messages(context.Background()) {
			if err != nil {
				log.Fatal(err)
			}
			if err := server.Write(2, message.Data); err != nil {
				log.Print(err)
			}
		}
	}()

	client, err := gipc.StartClient(&gipc.ClientConfig{
		Name: "quick", Network: "unix", Address: address,
		BusyPoll: 50 * time.Microsecond,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer mustClose(client)
	if err := client.Write(1, []byte("ping")); err != nil {
		log.Fatal(err)
	}
	for message, err := range client.Messages(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", message.Data)
		break
	}
	// Output:
	// ping
}

// A field that cannot be used is ErrConfig, and the text names the field.
func ExampleServerConfig() {
	for _, config := range []*gipc.ServerConfig{
		nil,
		{},
		{Name: "a/b"},
		{Name: "a", Network: "udp"},
		{Name: "a", MaxMsgSize: 10},
		{Name: "a", MaxClients: 10},
		{Name: "a", Network: "tcp", Address: "0.0.0.0:0"},
	} {
		if _, err := gipc.StartServer(config); errors.Is(err, gipc.ErrConfig) {
			fmt.Println(err)
		}
	}
	// Output:
	// gipc: bad configuration: the config is nil: pass a *ServerConfig that has a Name
	// gipc: bad configuration: Name is "": give 1 to 255 bytes of UTF-8 without slash, backslash and NUL, and not "." or ".."
	// gipc: bad configuration: Name is "a/b": give 1 to 255 bytes of UTF-8 without slash, backslash and NUL, and not "." or ".."
	// gipc: bad configuration: Network is "udp": use "unix" or "tcp"
	// gipc: bad configuration: MaxMsgSize is 10: 0 is 3145728, else give 1024 to 1073741824 bytes
	// gipc: bad configuration: MaxClients is 10: it needs MultiClient; without it one client is served
	// gipc: bad configuration: tcp 0.0.0.0:0 is reachable beyond this machine, and anybody would be served: set Secret or Secrets, or Authorize (one that returns nil serves everybody), or listen on 127.0.0.1
}
