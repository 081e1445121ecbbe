// The build without ZeroMQ's C library, which needs no C compiler.

//go:build !libzmq

package main

import "errors"

const withLibzmq = false

var errNoLibzmq = errors.New("built without the tag libzmq")

func serveLibzmq(contestant, string, func()) error  { return errNoLibzmq }
func dialLibzmq(contestant, string) (talker, error) { return nil, errNoLibzmq }
