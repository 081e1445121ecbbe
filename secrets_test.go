package gipc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// secretsOf returns n secrets, by the identities "0", "1", ...
func secretsOf(n int) map[string][]byte {
	secrets := map[string][]byte{}
	for i := range n {
		secrets[fmt.Sprint(i)] = fmt.Appendf(nil, "%032d", i+1)
	}
	return secrets
}

// TestSecretsRefused: every config of Secrets that cannot be, and that no text shows one.
func TestSecretsRefused(t *testing.T) {
	clearEnvironment(t)
	good := func(n int) []byte { return secretsOf(n + 1)[fmt.Sprint(n)] }
	for _, c := range []struct {
		field  string
		config ServerConfig
	}{
		{"Secrets is empty", ServerConfig{Secrets: map[string][]byte{}}},
		{`Secrets is an entry with the key ""`, ServerConfig{Secrets: map[string][]byte{"": good(0)}}},
		{`Secrets["a"] is 31 bytes long`, ServerConfig{Secrets: map[string][]byte{"a": good(0)[:31]}}},
		{`Secrets["a"] is 0 bytes long`, ServerConfig{Secrets: map[string][]byte{"a": nil, "b": good(0)}}},
		{`Secrets["a"] is all zeros`, ServerConfig{Secrets: map[string][]byte{"a": make([]byte, 40)}}},
		{`Secrets["b"] is the same as Secrets["a"]`, ServerConfig{Secrets: map[string][]byte{"b": good(0), "a": good(0)}}},
		{`Secrets["a"] is the same as Secret`, ServerConfig{Secret: good(0), Secrets: map[string][]byte{"a": good(0)}}},
		{"Secrets is 257 entries", ServerConfig{Secrets: secretsOf(257)}},
		{"EncryptionOff and Secrets is set", ServerConfig{Secrets: secretsOf(1), Encryption: EncryptionOff}},
	} {
		c.config.Name, c.config.Network = "n", "unix"
		s, err := c.config.settings()
		if s != nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%v, want ErrConfig with %q", err, c.field)
			continue
		}
		for _, secret := range c.config.Secrets {
			if len(secret) > 0 && strings.Contains(err.Error(), string(secret)) {
				t.Errorf("the text shows a secret: %q", err)
			}
		}
	}
	for _, c := range []ServerConfig{
		{Secrets: secretsOf(256)},
		{Secret: testSecret, Secrets: secretsOf(256)},
		{Secret: testSecret, Secrets: map[string][]byte{}}, // Secret is required, and nobody is served without it
		{Network: "tcp", Address: "0.0.0.0:0", Secrets: secretsOf(1)},
	} {
		c.Name = "n"
		if _, err := c.settings(); err != nil {
			t.Errorf("%d entries: %v", len(c.Secrets), err)
		}
	}
}

// TestSecretsTellWhoItIs: the client that proves a secret is who has it, whichever it is,
// and nobody else is served.
func TestSecretsTellWhoItIs(t *testing.T) {
	t.Parallel()
	secrets := secretsOf(256)
	for _, own := range [][]byte{nil, testSecret} {
		config := ServerConfig{MultiClient: true, Secret: own, Secrets: map[string][]byte{}}
		for identity, secret := range secrets {
			config.Secrets[identity] = bytes.Clone(secret)
		}
		config.Authorize = func(p Peer) error {
			if p.Identity != "" {
				t.Errorf("Authorize knows %q before anything is proved", p.Identity)
			}
			return nil
		}
		s, conns := startPiped(t, config)
		for _, secret := range config.Secrets { // the server has its own copy
			clear(secret)
		}
		clear(config.Secrets)
		visit := func(secret []byte) (string, error) {
			client, err := dialPiped(ClientConfig{Secret: secret}, conns)
			if err != nil {
				return "", err
			}
			if err := client.Write(1, nil); err != nil {
				t.Error(err)
			}
			defer func() {
				client.Close()
				if !client.Security().Hybrid {
					t.Error("Security forgets the last connection")
				}
			}()
			for member, m := range s.Connections.Messages(context.Background()) {
				if m.MsgType == 1 {
					if !member.Security().Secret || !client.Security().Secret {
						t.Error("Security knows of no secret")
					}
					return member.Peer().Identity, nil
				}
			}
			return "", errors.New("the server is closed")
		}
		for _, identity := range []string{"0", "1", "17", "254", "255"} {
			if got, err := visit(secrets[identity]); got != identity || err != nil {
				t.Errorf("%q is %q, %v", identity, got, err)
			}
		}
		if got, err := visit(testSecret); own != nil && (got != "" || err != nil) || own == nil && !errors.Is(err, ErrSecret) {
			t.Errorf("the holder of Secret is %q, %v", got, err)
		}
		for _, wrong := range [][]byte{append(bytes.Clone(testSecret), 1), nil, append(bytes.Clone(secrets["3"]), 0)} {
			if _, err := visit(wrong); !errors.Is(err, ErrSecret) {
				t.Errorf("a stranger: %v", err)
			}
		}
		if n := s.Stats().Refused; n < 3 {
			t.Errorf("Refused is %d", n)
		}
	}
}

// TestSecretsTryEach: the keys are those of the holder whose confirmation it is.
func TestSecretsTryEach(t *testing.T) {
	t.Parallel()
	var holders []holder
	z, th := bytes.Repeat([]byte{1}, 80), bytes.Repeat([]byte{2}, hashLen)
	for i := range 5 {
		h, err := newHolder(fmt.Sprint(i), secretsOf(5)[fmt.Sprint(i)])
		if err != nil {
			t.Fatal(err)
		}
		holders = append(holders, h)
	}
	for i, h := range holders {
		k, err := beginKeys(h.salt, z, th)
		if err != nil {
			t.Fatal(err)
		}
		want, err := newKeys(secretsOf(5)[h.identity], z, th)
		if err != nil {
			t.Fatal(err)
		}
		got, identity, err := whoProves(holders, z, th, k.clientConfirmation())
		if got == nil || err != nil || identity != fmt.Sprint(i) || !bytes.Equal(got.serverTraffic, want.serverTraffic) || !bytes.Equal(got.clientTraffic, want.clientTraffic) {
			t.Errorf("holder %d: %q, %v", i, identity, err)
		}
		others := slices.Delete(slices.Clone(holders), i, i+1)
		if k, identity, err := whoProves(others, z, th, k.clientConfirmation()); k != nil || identity != "" || err != nil {
			t.Errorf("without holder %d: %q, %v", i, identity, err)
		}
	}
}

// TestSecretsWaitForTheirTurn: many tries are work, which waits for its turn; one is not.
func TestSecretsWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]int{0: 2, 1: 3, 2: 3} { // beside Secret
		config := ServerConfig{Name: "test", Network: "unix", Secret: testSecret, Secrets: secretsOf(n)}
		s, err := config.settings()
		if err != nil {
			t.Fatal(err)
		}
		works := 0
		work := func(f func() error) error { works++; return f() }
		toServer, toClient := newMemStream(0, nil), newMemStream(0, nil)
		done := make(chan error, 1)
		go func() {
			c, err := clientHello(memConn{toClient, toServer}, hybridTerms(testSecret), clientSide{key: newKey})
			if err == nil {
				_, err = c.finish()
			}
			done <- err
		}()
		session, err := serverHandshake(memConn{toServer, toClient}, &s.terms, serverSide{key: newKey, admit: func() byte { return 0 }, work: work})
		toClient.end()
		if cerr := <-done; err != nil || cerr != nil || session.identity != "" {
			t.Fatalf("%d secrets: %v, %v", n, err, cerr)
		}
		if works != want {
			t.Errorf("%d secrets: work was asked for %d times, want %d", n, works, want)
		}
	}
}

// BenchmarkStranger is what a stranger's confirmation costs a server with so many secrets,
// beside the key agreement.
func BenchmarkStranger(b *testing.B) {
	for _, n := range []int{1, 16, 256} {
		var holders []holder
		for identity, secret := range secretsOf(n) {
			h, err := newHolder(identity, secret)
			if err != nil {
				b.Fatal(err)
			}
			holders = append(holders, h)
		}
		b.Run(fmt.Sprint(n, " secrets"), func(b *testing.B) {
			z, th, confirmation := make([]byte, 80), make([]byte, hashLen), make([]byte, hashLen)
			for b.Loop() {
				if k, _, _ := whoProves(holders, z, th, confirmation); k != nil {
					b.Fatal("proved")
				}
			}
		})
	}
}
