// A peer: ZeroMQ in Go, go-zeromq/zmq4, a PAIR of sockets over ipc.

package main

import "github.com/go-zeromq/zmq4"

type zmq4Talker struct{ zmq4.Socket }

func (t zmq4Talker) send(data []byte) error { return t.Send(zmq4.NewMsg(data)) }
func (t zmq4Talker) flush() error           { return nil }

func (t zmq4Talker) recv() ([]byte, error) {
	m, err := t.Recv()
	return m.Bytes(), err
}

func serveZMQ4(_ contestant, path string, ready func()) error {
	s := zmq4.NewPair(background)
	if err := s.Listen("ipc://" + path); err != nil {
		return err
	}
	ready()
	converse(zmq4Talker{s})
	return nil
}

func dialZMQ4(_ contestant, path string) (talker, error) {
	s := zmq4.NewPair(background)
	return zmq4Talker{s}, s.Dial("ipc://" + path)
}
