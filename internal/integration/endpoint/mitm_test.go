// One who stands between: he would have the two agree on less, or be each for
// the other, or bring them to somebody else.

package endpoint_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.com/gipc"
	"example.com/gipc/internal/testutil"
)

// An editor stands between one client and the server: it changes one byte of
// what one side says, counted from the first, and passes everything else on.
type editor struct {
	net.Conn       // to the one who is deceived
	at       int   // the byte
	mask     byte  // what is changed of it
	passed   int   // bytes before the next
	did      *bool // whether it came to it
}

func (e *editor) Write(b []byte) (int, error) {
	if i := e.at - e.passed; i >= 0 && i < len(b) {
		b = slices.Clone(b)
		b[i] ^= e.mask
		*e.did = true
	}
	e.passed += len(b)
	return e.Conn.Write(b)
}

// between returns a Dial that connects once, through an editor in each direction.
func between(dial func(context.Context) (net.Conn, error), stop context.CancelFunc, edit func(toClient, toServer net.Conn) (net.Conn, net.Conn)) func(context.Context) (net.Conn, error) {
	first := true
	return func(ctx context.Context) (net.Conn, error) {
		if !first {
			stop() // it would try forever
			return nil, errors.New("once is enough")
		}
		first = false
		server, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		here, client := net.Pipe()
		toClient, toServer := edit(client, server)
		move := func(to, from net.Conn) {
			io.Copy(to, from)
			client.Close()
			server.Close()
		}
		go move(toClient, server)
		go move(toServer, client)
		return here, nil
	}
}

// Each bit of the bytes that say on what the two agree, in every message of the
// handshake: a client that was deceived ends with an error of its own, a server
// does not take it for connected or loses it at once, and nothing that was
// written is delivered. The other bytes are in TestHostileRelayOfHandshakes.
func TestDowngradeBitByBit(t *testing.T) {
	t.Parallel()
	named := []error{gipc.ErrVersion, gipc.ErrEncryption, gipc.ErrSecret, gipc.ErrRefused, gipc.ErrMalformed, gipc.ErrTruncated, gipc.ErrTimeout}
	for name, set := range map[string]func(*gipc.ServerConfig, *gipc.ClientConfig){
		"secret":                        func(s *gipc.ServerConfig, c *gipc.ClientConfig) { s.Secret, c.Secret = secret, secret },
		"no secret":                     func(s *gipc.ServerConfig, c *gipc.ClientConfig) {},
		"no secret, the client follows": func(s *gipc.ServerConfig, c *gipc.ClientConfig) { c.Encryption = gipc.EncryptionOff },
		"plain": func(s *gipc.ServerConfig, c *gipc.ClientConfig) {
			s.Encryption, c.Encryption = gipc.EncryptionOff, gipc.EncryptionOff
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				hello := fullHello
				if name == "plain" {
					hello = 6
				}
				for _, c := range []struct {
					what     string
					toClient bool
					at       int
				}{
					{"version", true, 0}, {"flags of the server", true, 1}, {"reply of the server", true, hello},
					{"reply of the client", false, 0}, {"flags of the client", false, 1},
				} {
					for _, mask := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 3, 255} { // 3: version 3 becomes 0, and flags 3, too
						sc, cc := configs(t, "pipe")
						set(sc, cc)
						server := startServer(t, sc)
						ctx, stop := context.WithCancel(t.Context())
						did := false
						cc.Dial = between(cc.Dial, stop, func(toClient, toServer net.Conn) (net.Conn, net.Conn) {
							e := &editor{at: c.at, mask: mask, did: &did}
							if c.toClient {
								e.Conn = toClient
								return e, toServer
							}
							e.Conn = toServer
							return toClient, e
						})
						client, err := gipc.StartClientContext(ctx, cc)
						stop()
						if client != nil || err == nil {
							t.Fatalf("%s ^ %#02x: the client connected", c.what, mask)
						}
						if !slices.ContainsFunc(named, func(kind error) bool { return errors.Is(err, kind) }) {
							t.Errorf("%s ^ %#02x: no sentinel in %v", c.what, mask, err)
						}
						if !did {
							t.Fatalf("%s ^ %#02x: nothing was changed", c.what, mask)
						}
						pass(time.Minute)
						synctest.Wait()
						m, err := server.ReadTimed(0)
						switch {
						case err != nil:
							t.Fatal(err)
						case c.what == "reply of the server": // which comes when the server is through
							if m.Status != "Connected" {
								t.Errorf("%s ^ %#02x: the server has %+v", c.what, mask, m)
							}
							wantInternal(t, server, gipc.Disconnected)
							if m, err = server.ReadTimed(0); m != gipc.TimeoutMessage {
								t.Errorf("%s ^ %#02x: the server has %+v, %v", c.what, mask, m, err)
							}
						case m != gipc.TimeoutMessage || server.Stats().Refused != 1 || server.StatusCode() != gipc.Listening:
							t.Errorf("%s ^ %#02x: the server has %+v, is %s, %+v", c.what, mask, m, server.Status(), server.Stats())
						}
						cut(server)
					}
				}
			})
		})
	}
}

// He is a server to the client and a client to the server, with everything but
// their secret. Without a secret he gets in, and SECURITY.md says so.
func TestManBetweenWithEndsOfHisOwn(t *testing.T) {
	t.Parallel()
	other := bytes.Repeat([]byte("fedcba9876543210"), 2)
	for name, c := range map[string]struct {
		theirs, his []byte          // secrets
		off         gipc.Encryption // of his serving end
		deceived    error           // what the client ends with
		refused     error           // what he ends with at the server
	}{
		"without a secret":                   {theirs: secret, deceived: gipc.ErrSecret, refused: gipc.ErrSecret},
		"with another":                       {theirs: secret, his: other, deceived: gipc.ErrSecret, refused: gipc.ErrSecret},
		"without a secret, in plaintext":     {theirs: secret, off: gipc.EncryptionOff, deceived: gipc.ErrEncryption, refused: gipc.ErrSecret},
		"where they have none, in plaintext": {off: gipc.EncryptionOff, deceived: gipc.ErrEncryption},
		"where they have none":               {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				sc, cc := configs(t, "pipe")
				sc.Secret, cc.Secret = c.theirs, c.theirs
				server := startServer(t, sc)
				trap, bait := configs(t, "pipe")
				trap.Secret, trap.Encryption = c.his, c.off
				his := startServer(t, trap)

				toServer, err := gipc.StartClientContext(patience(t), &gipc.ClientConfig{Name: "test", Dial: cc.Dial, Secret: c.his, Timeout: time.Hour})
				if !errors.Is(err, c.refused) || (err == nil) != (c.refused == nil) {
					t.Errorf("he ends at the server with %v, want %v", err, c.refused)
				}
				cc.Dial, cc.Timeout = bait.Dial, time.Hour
				client, err := gipc.StartClientContext(patience(t), cc)
				if !errors.Is(err, c.deceived) || (err == nil) != (c.deceived == nil) {
					t.Errorf("the client ends with %v, want %v", err, c.deceived)
				}
				if client == nil {
					if m, err := his.ReadTimed(time.Minute); m != gipc.TimeoutMessage || err != nil {
						t.Errorf("he has of the client: %+v, %v", m, err)
					}
				}
				if toServer == nil {
					if m, err := server.ReadTimed(time.Minute); m != gipc.TimeoutMessage || err != nil {
						t.Errorf("the server has: %+v, %v", m, err)
					}
				}
				if client != nil && toServer != nil { // what no secret means
					testutil.Must(t, client.Write(5, []byte("for the server's eyes alone")))
					m := next(t, his)
					testutil.Must(t, toServer.Write(m.MsgType, append(m.Data, '!')))
					wantUser(t, server, 5, "for the server's eyes alone!")
				}
				for _, e := range []end{server, his} {
					cut(e)
				}
				if client != nil {
					cut(client)
				}
				if toServer != nil {
					cut(toServer)
				}
			})
		})
	}
}

// He changes not a byte, but brings the client to another server, to another
// client, or one server to another.
func TestManBetweenBringsTheWrongTwoTogether(t *testing.T) {
	t.Parallel()
	other := bytes.Repeat([]byte("fedcba9876543210"), 2)
	for name, c := range map[string]struct {
		name   string
		secret []byte
		want   error
	}{
		"another secret":         {"test", other, gipc.ErrSecret},
		"another name":           {"tesu", secret, gipc.ErrSecret},
		"no secret":              {"test", nil, gipc.ErrSecret},
		"the same of everything": {"test", secret, nil}, // cannot be told apart
	} {
		t.Run("a server with "+name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				sc, wrong := configs(t, "pipe")
				sc.Name, sc.Secret = c.name, c.secret
				server := startServer(t, sc)
				_, cc := configs(t, "pipe") // of the server that it means, and that he keeps from it
				cc.Secret, cc.Dial = secret, wrong.Dial
				client, err := gipc.StartClientContext(patience(t), cc)
				if !errors.Is(err, c.want) || (client != nil) != (c.want == nil) {
					t.Errorf("%v, %v; want %v", client, err, c.want)
				}
				if client != nil {
					cut(client)
				} else if m, err := server.ReadTimed(time.Minute); m != gipc.TimeoutMessage || err != nil || server.Stats().Refused != 1 {
					t.Errorf("the server has %+v, %v; %+v", m, err, server.Stats())
				}
				cut(server)
			})
		})
	}
	for _, key := range [][]byte{nil, secret} {
		t.Run("two servers", func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				var dials []func(context.Context) (net.Conn, error)
				var servers []*gipc.Server
				var clients []*gipc.ClientConfig
				for range 2 {
					sc, cc := configs(t, "pipe")
					sc.Secret, cc.Secret = key, key
					servers, dials, clients = append(servers, startServer(t, sc)), append(dials, cc.Dial), append(clients, cc)
				}
				one, err := dials[0](t.Context())
				testutil.Must(t, err)
				two, err := dials[1](t.Context())
				testutil.Must(t, err)
				go func() { io.Copy(one, two); one.Close() }()
				go func() { io.Copy(two, one); two.Close() }()
				pass(time.Minute)
				for i, server := range servers {
					if m, err := server.ReadTimed(0); m != gipc.TimeoutMessage || err != nil || server.Stats().Refused != 1 {
						t.Errorf("a server has %+v, %v; %+v", m, err, server.Stats())
					}
					goodClient(t, server, clients[i])
					cut(server)
				}
			})
		})
		t.Run("two clients", func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				one, two := net.Pipe()
				errs := make(chan error, 2)
				for _, conn := range []net.Conn{one, two} {
					go func() {
						client, err := gipc.StartClient(&gipc.ClientConfig{Name: "test", Secret: key, Timeout: 11 * time.Second,
							Dial: func(context.Context) (net.Conn, error) { return conn, nil }})
						if client != nil {
							err = errors.New("a client has taken a client for its server")
						}
						errs <- err
					}()
				}
				for range 2 {
					wantErr(t, <-errs, gipc.ErrTimeout)
				}
			})
		})
	}
}
