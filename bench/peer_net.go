// Peers that are streams or frames over a socket: coder/websocket and hashicorp/yamux.

package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"

	"github.com/coder/websocket"
	"github.com/hashicorp/yamux"
)

// websocketTalker sends binary messages, read into a buffer that is used again.
type websocketTalker struct {
	conn *websocket.Conn
	in   bytes.Buffer
}

func (t *websocketTalker) send(data []byte) error {
	return t.conn.Write(background, websocket.MessageBinary, data)
}

func (t *websocketTalker) flush() error { return nil }

func (t *websocketTalker) recv() ([]byte, error) {
	_, r, err := t.conn.Reader(background)
	if err != nil {
		return nil, err
	}
	t.in.Reset()
	_, err = t.in.ReadFrom(r)
	return t.in.Bytes(), err
}

func serveWebsocket(_ contestant, path string, ready func()) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	ready()
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		conn.SetReadLimit(-1)
		converse(&websocketTalker{conn: conn})
	}))
}

func dialWebsocket(_ contestant, path string) (talker, error) {
	conn, _, err := websocket.Dial(background, "ws://bench/", &websocket.DialOptions{HTTPClient: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}})
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(-1)
	return &websocketTalker{conn: conn}, nil
}

// yamux is raw's frames over one stream of a session.
func yamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.LogOutput = io.Discard
	return c
}

func serveYamux(c contestant, path string, ready func()) error {
	return accept(path, ready, func(conn net.Conn) {
		session, err := yamux.Server(conn, yamuxConfig())
		if err != nil {
			return
		}
		stream, err := session.Accept()
		if err != nil {
			return
		}
		if t, err := newRawTalker(stream, c); err == nil {
			converse(t)
		}
	})
}

func dialYamux(c contestant, path string) (talker, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	session, err := yamux.Client(conn, yamuxConfig())
	if err != nil {
		return nil, err
	}
	stream, err := session.Open()
	if err != nil {
		return nil, err
	}
	return newRawTalker(stream, c)
}
