// Command gipc sends and receives the messages of package example.com/gipc
// from a shell, measures a connection, and tests clients in other languages.
//
//	gipc listen NAME              start a server, and print what arrives
//	gipc send NAME                send each line of standard input as a message
//	gipc call NAME [TEXT]         send a request, and print the reply
//	gipc bench NAME               measure round trips and rates
//	gipc conform -- COMMAND...    test a client of the protocol
//	gipc version                  print the version
//
// The flag -h after a command lists its flags and shows an example. Flags may
// stand before and after NAME.
//
// # Two terminals
//
// In the first one, start a server that answers requests:
//
//	$ gipc listen weather -reply "light rain"
//	gipc: listening as "weather" on /tmp/gipc-1000/weather.sock
//
// In the second one, send it messages and a request:
//
//	$ printf 'hello\nagain\n' | gipc send weather
//	$ gipc call weather "how is it in Rome?"
//	light rain
//
// The first terminal shows hello, again and the question. Ctrl-C ends it. A
// command can answer instead. It gets the data of a request as its standard
// input, and what it prints is the reply:
//
//	$ gipc listen upper -- tr a-z A-Z
//	$ gipc call upper hello
//	HELLO
//
// A program that uses the package is served in the same way: its Name is the
// NAME of the command line.
//
// # Secrets
//
// Connections are encrypted. To authenticate both sides as well, make a file
// with a secret, and give it to both. Its bytes are used as they are:
//
//	$ (umask 077; openssl rand -out weather.secret 32)
//	$ gipc listen weather -secret-file weather.secret
//	$ gipc call weather -secret-file weather.secret hello
//
// # Output
//
// With -o json each message is a JSON object on a line of its own, with type,
// status, length, and data, or base64 if the data is not UTF-8. With -o hex the
// data is printed in hexadecimal. What is not a message goes to standard error.
//
// # Exit codes
//
// The exit code is 0 if everything succeeded, 1 if something failed, and 2 if
// the command line cannot be used. Ctrl-C and SIGTERM close the connection
// gracefully: listen then ends with 0, and the other commands with 1. A second
// Ctrl-C does not wait.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	// With a handler for SIGPIPE, a write to a closed pipe is an error. Otherwise it would end the process without Close.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// A command is one of the words that can follow gipc.
type command struct {
	name    string
	args    string // what follows the name in its usage line
	summary string // one line
	help    string // the rest of -h, with an example
	run     func(*environment) error
	flags   func(*environment) // defines the flags; nil: none
}

// commands returns all commands, in the order of the help.
func commands() []command {
	return []command{listenCommand(), sendCommand(), callCommand(), benchCommand(), conformCommand(), versionCommand()}
}

// run runs the command line args and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 || args[0] == "-h" || args[0] == "-help" || args[0] == "--help" {
		printCommands(stdout)
		return exitOK
	}
	if args[0] == "help" {
		if len(args) == 1 {
			printCommands(stdout)
			return exitOK
		}
		args = []string{args[1], "-h"}
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return runCommand(ctx, c, args[1:], stdin, stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "gipc: %q is not a command: gipc help lists the commands\n", args[0])
	return exitUsage
}

func runCommand(ctx context.Context, c command, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	env := newEnvironment(ctx, c, stdin, stdout, stderr)
	err := env.parse(args)
	if err == nil {
		err = c.run(env)
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, flag.ErrHelp):
		env.printHelp(stdout)
		return exitOK
	case errors.Is(err, errQuiet):
		return exitFailed
	}
	fmt.Fprintln(stderr, "gipc "+c.name+":", describe(err))
	if usage := (usageError{}); errors.As(err, &usage) {
		fmt.Fprintf(stderr, "gipc %s -h shows the flags and an example\n", c.name)
		return exitUsage
	}
	return exitFailed
}

func printCommands(w io.Writer) {
	fmt.Fprint(w, "gipc sends and receives messages between processes, from a shell.\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  gipc %-29s %s\n", c.name+" "+c.args, c.summary)
	}
	fmt.Fprint(w, `
To begin, in two terminals:

  gipc listen weather -reply "light rain"
  gipc call weather "how is it in Rome?"

gipc COMMAND -h lists the flags of a command and shows an example.
`)
}
