// A peer: ZeroMQ's C library through pebbe/zmq4, a PAIR of sockets over ipc. Only
// in a build with the tag libzmq; main.go makes that by itself where it can.

//go:build libzmq

package main

import zmq "github.com/pebbe/zmq4"

const withLibzmq = true

type libzmqTalker struct{ *zmq.Socket }

func (t libzmqTalker) send(data []byte) error {
	_, err := t.SendBytes(data, 0)
	return err
}

func (t libzmqTalker) flush() error          { return nil }
func (t libzmqTalker) recv() ([]byte, error) { return t.RecvBytes(0) }

func serveLibzmq(_ contestant, path string, ready func()) error {
	s, err := zmq.NewSocket(zmq.PAIR)
	if err != nil {
		return err
	}
	if err := s.Bind("ipc://" + path); err != nil {
		return err
	}
	ready()
	converse(libzmqTalker{s})
	return nil
}

func dialLibzmq(_ contestant, path string) (talker, error) {
	s, err := zmq.NewSocket(zmq.PAIR)
	if err != nil {
		return nil, err
	}
	return libzmqTalker{s}, s.Connect("ipc://" + path)
}
