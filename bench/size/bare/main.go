// A server that uses net, crypto/ecdh, log/slog and fmt alone: the size of a program
// with sockets, keys and a logger, without any library.

package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"os"
)

func main() {
	l, err := net.Listen("unix", "/tmp/bare.sock")
	if err != nil {
		exit(err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			exit(err)
		}
		key, err := ecdh.P384().GenerateKey(rand.Reader)
		if err != nil {
			exit(err)
		}
		point := make([]byte, 97)
		conn.Read(point)
		public, err := ecdh.P384().NewPublicKey(point)
		if err != nil {
			exit(err)
		}
		secret, err := key.ECDH(public)
		if err != nil {
			exit(err)
		}
		conn.Write(secret)
		conn.Close()
	}
}

func exit(err error) {
	slog.New(slog.NewTextHandler(os.Stderr, nil)).Error("server failed", "err", fmt.Errorf("bare: %w", err))
	os.Exit(1)
}
