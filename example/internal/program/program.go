// Package program has what the example programs have in common and what is not about
// the library: flags, Ctrl-C, exit codes, and both roles in one process.
package program

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"example.com/gipc"
)

// Parse parses the command line. The usage is printed for -h, before the flags.
func Parse(usage string) {
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage, "\n")
		flag.PrintDefaults()
	}
	flag.Parse()
}

// WrongUse ends the program with exit code 2.
func WrongUse(name, advice string) {
	fmt.Fprintf(os.Stderr, "%s: %s; -h prints the usage\n", name, advice)
	os.Exit(2)
}

// Run calls run with a context that is done after Ctrl-C or SIGTERM. A second one
// ends the program at once. If run fails the program ends with exit code 1.
func Run(name string, run func(ctx context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	err := run(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", err)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// A Server is the server's role, until ctx is done. A Client is the client's.
type (
	Server func(ctx context.Context, config *gipc.ServerConfig) error
	Client func(ctx context.Context, config *gipc.ClientConfig) error
)

const usage = `%[1]s: %[2]s

  go run ./example/%[1]s            both roles in this process
  go run ./example/%[1]s -server    one role in each process: start this one,
  go run ./example/%[1]s -client    and then this one in another terminal

Its exit code is 0 when it is done, as a server is after Ctrl-C; 1 when it failed or
was interrupted; 2 for wrong flags.
`

// TwoRoles runs the role that the command line names, or both in this process.
func TwoRoles(name, about string, serve Server, connect Client) {
	of := flag.String("name", name, "`name` of the connection, the same on both sides")
	server := flag.Bool("server", false, "be the server, until Ctrl-C (default: both roles)")
	client := flag.Bool("client", false, "be the client (default: both roles)")
	Parse(fmt.Sprintf(usage, name, about))
	if *server && *client || flag.NArg() > 0 {
		WrongUse(name, "give -server or -client, or neither to see both")
	}
	Run(name, func(ctx context.Context) error {
		serverConfig, clientConfig := &gipc.ServerConfig{Name: *of}, &gipc.ClientConfig{Name: *of}
		switch {
		case *server:
			return serve(ctx, serverConfig)
		case *client:
			return connect(ctx, clientConfig)
		}
		return both(ctx, serve, serverConfig, connect, clientConfig)
	})
}

// both runs the two roles on a socket in a directory that is removed afterwards.
func both(ctx context.Context, serve Server, serverConfig *gipc.ServerConfig, connect Client, clientConfig *gipc.ClientConfig) error {
	dir, err := os.MkdirTemp("", "gipc")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	serverConfig.Network, serverConfig.Address = "unix", filepath.Join(dir, "socket")
	clientConfig.Network, clientConfig.Address = "unix", filepath.Join(dir, "socket")

	serverCtx, stopServer := context.WithCancel(ctx)
	defer stopServer()
	ctx, stopClient := context.WithCancel(ctx)
	defer stopClient()
	served := make(chan error, 1)
	go func() {
		err := serve(serverCtx, serverConfig)
		stopClient() // if the server has failed
		served <- err
	}()
	err = connect(ctx, clientConfig)
	stopServer()
	if serverErr := <-served; serverErr != nil {
		return serverErr
	}
	return err
}
