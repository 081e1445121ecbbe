// A server that uses net and crypto/ecdh alone: what a program with sockets and
// keys weighs without any library.

package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"log"
	"net"
)

func main() {
	l, err := net.Listen("unix", "/tmp/bare.sock")
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		key, err := ecdh.P384().GenerateKey(rand.Reader)
		if err != nil {
			log.Fatal(err)
		}
		point := make([]byte, 97)
		conn.Read(point)
		public, err := ecdh.P384().NewPublicKey(point)
		if err != nil {
			log.Fatal(err)
		}
		secret, err := key.ECDH(public)
		if err != nil {
			log.Fatal(err)
		}
		conn.Write(secret)
		conn.Close()
	}
}
