// With the core: remove the line above when both configs have Upgrade.

package wire2

import (
	"bytes"
	"net"
	"testing"
	"time"

	"example.com/gipc"
)

func upgradeBy(f func(net.Conn, Options) (net.Conn, error), encrypted bool) func(net.Conn) (net.Conn, error) {
	return func(conn net.Conn) (net.Conn, error) { return f(conn, Options{Encryption: encrypted}) }
}

type reader interface {
	ReadTimed(time.Duration) (*gipc.Message, error)
}

// readUntil reads up to the first message that is wanted.
func readUntil(t *testing.T, r reader, wanted func(*gipc.Message) bool) *gipc.Message {
	t.Helper()
	for {
		m, err := r.ReadTimed(20 * time.Second)
		if err != nil || m == gipc.TimeoutMessage {
			t.Fatal(m, err)
		}
		if wanted(m) {
			return m
		}
	}
}

func TestCoreServerWithOldClients(t *testing.T) {
	eachEncryption(t, func(t *testing.T, encrypted bool) {
		address := shortAddress(t)
		s, err := gipc.StartServer(&gipc.ServerConfig{Name: "old", Network: "unix", Address: address, Encryption: gipc.EncryptionOff, Upgrade: upgradeBy(Server, encrypted)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for range 3 {
			startPredecessor(t, "client", address, encrypted)
			if err := s.WaitConnected(t.Context()); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				data := bytes.Repeat([]byte{byte(i)}, i*i*500)
				if err := s.Write(i+1, data); err != nil {
					t.Fatal(err)
				}
				m := readUntil(t, s, func(m *gipc.Message) bool { return m.MsgType > 0 })
				if m.MsgType != i+1 || !bytes.Equal(m.Data, data) {
					t.Fatalf("type %d with %d bytes, not %d with %d", m.MsgType, len(m.Data), i+1, len(data))
				}
			}
			if err := s.Write(99, nil); err != nil {
				t.Fatal(err)
			}
			if m := readUntil(t, s, func(m *gipc.Message) bool { return m.Status == "Disconnected" }); m.Err != nil {
				t.Error(m.Err)
			}
		}
	})
}

func TestCoreClientWithOldServer(t *testing.T) {
	eachEncryption(t, func(t *testing.T, encrypted bool) {
		r := startPredecessor(t, "server", shortAddress(t), encrypted)
		for range 60 {
			c, err := gipc.StartClient(&gipc.ClientConfig{Name: "old", Network: "unix", Address: r.address, Timeout: 20 * time.Second,
				Encryption: gipc.EncryptionOff, Upgrade: upgradeBy(Client, encrypted)})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Write(5, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			readUntil(t, c, func(m *gipc.Message) bool { return m.MsgType == 5 && string(m.Data) == "hello" })
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
