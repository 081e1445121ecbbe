//go:build !unix

package main

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"time"

	"example.com/gipc"
)

// startWithChannel starts a server on a free port of loopback, and the child, which
// reads where it is and a secret for this run from its standard input.
func startWithChannel(cmd *exec.Cmd) (*gipc.Server, error) {
	secret := make([]byte, 32)
	rand.Read(secret)
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "child", Network: "tcp", Address: "127.0.0.1:0", Secret: secret})
	if err != nil {
		return nil, err
	}
	input, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = fmt.Fprintln(input, server.Addr(), hex.EncodeToString(secret))
	}
	if err != nil {
		server.Close()
		return nil, err
	}
	return server, nil
}

// channelOfChild reads what startWithChannel has written. A client whose server is
// gone gives up after its Timeout.
func channelOfChild() (*gipc.ClientConfig, error) {
	var address, text string
	if _, err := fmt.Fscanln(bufio.NewReader(os.Stdin), &address, &text); err != nil {
		return nil, fmt.Errorf("this is the child of ./example/child, which starts it: %w", err)
	}
	secret, err := hex.DecodeString(text)
	return &gipc.ClientConfig{Network: "tcp", Address: address, Secret: secret, Timeout: 5 * time.Second}, err
}
