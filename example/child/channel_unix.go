//go:build unix

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"

	"example.com/gipc"
)

const channelFD = 3 // the first of ExtraFiles in the child

// startWithChannel starts the child with one socket of a pair, and a server on the
// other one.
func startWithChannel(cmd *exec.Cmd) (*gipc.Server, error) {
	near, far, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer far.Close() // the child has its own
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "child", Listener: gipc.ListenConn(near)})
	if err != nil {
		near.Close()
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{far}
	if err := cmd.Start(); err != nil {
		server.Close()
		return nil, err
	}
	return server, nil
}

// socketPair returns two sockets that are connected. No other child inherits them.
func socketPair() (near net.Conn, far *os.File, err error) {
	syscall.ForkLock.RLock()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(pair[0])
		syscall.CloseOnExec(pair[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	file := os.NewFile(uintptr(pair[0]), "channel")
	defer file.Close() // FileConn has its own
	far = os.NewFile(uintptr(pair[1]), "channel of the child")
	if near, err = net.FileConn(file); err != nil {
		far.Close()
		return nil, nil, err
	}
	return near, far, nil
}

// channelOfChild is the client's side. Its Dial has one connection to give: after
// that net.ErrClosed tells the client to stop.
func channelOfChild() (*gipc.ClientConfig, error) {
	file := os.NewFile(channelFD, "channel")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("this is the child of ./example/child, which starts it: %w", err)
	}
	var used atomic.Bool
	return &gipc.ClientConfig{Dial: func(context.Context) (net.Conn, error) {
		if used.Swap(true) {
			return nil, net.ErrClosed
		}
		return conn, nil
	}}, nil
}
