// Package wire2 speaks version 2 of the protocol: that of
// james-barrow/golang-ipc and joe-at-startupmedia/gipc. It connects programs
// that use gipc to existing programs, so that a running system can be moved one
// program at a time. README.md in this folder is the specification of version 2,
// and MIGRATION.md describes the move.
//
// Server and Client are functions for the Upgrade field of gipc.ServerConfig and
// gipc.ClientConfig. Each returns a connection that speaks version 2 to the peer
// and the plaintext form of version 3 to the library. So the config has
// gipc.EncryptionOff and no Secret; Options.Encryption encrypts what is on the
// wire:
//
//	server, err := gipc.StartServer(&gipc.ServerConfig{
//		Name:       "weather",
//		Encryption: gipc.EncryptionOff,
//		Upgrade: func(conn net.Conn) (net.Conn, error) {
//			return wire2.Server(conn, wire2.Options{Encryption: true})
//		},
//	})
//
// # What version 2 does not give
//
// Version 2 authenticates nobody. Anyone who can connect is served, and an
// attacker on the path can read and change everything, even if it is encrypted.
// One key serves both directions and frames carry no number, so an attacker can
// replay, reorder and drop frames, and reflect them to their sender. Use it only
// on a socket that is closed to other users, and only until the last old program
// is gone.
//
// A nil error of Close means less than in version 3: the peer's stream ended
// between two frames. It does not mean that the peer process has received the
// messages.
//
// Version 2 has no heartbeat. A connection of this package answers the pings of
// the library itself, so the Heartbeat of the config does not detect a dead peer.
//
// Version 2 has no requests. A Call or a Reply ends the connection, with an error
// that says so. The same holds for a message that is larger than the limit of the
// peer, if that limit is below 1024 bytes.
package wire2
