// What every command has: its streams, its flags, and how a command line is read.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"example.com/gipc"
)

// An environment is one run of a command.
type environment struct {
	ctx    context.Context
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer

	command command
	flags   *flag.FlagSet
	args    []string // the arguments that are no flags, up to "--"
	rest    []string // the arguments after "--"
	hasRest bool     // there was a "--"
}

func newEnvironment(ctx context.Context, c command, stdin io.Reader, stdout, stderr io.Writer) *environment {
	env := &environment{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr, command: c}
	env.flags = flag.NewFlagSet("gipc "+c.name, flag.ContinueOnError)
	env.flags.SetOutput(io.Discard) // run prints the errors
	env.flags.Usage = func() {}
	return env
}

// parse defines the flags of the command and reads args. Flags may stand before
// and after other arguments.
func (env *environment) parse(args []string) error {
	if env.command.flags != nil {
		env.command.flags(env)
	}
	if i := slices.Index(args, "--"); i >= 0 {
		args, env.rest, env.hasRest = args[:i], args[i+1:], true
	}
	for {
		if err := env.flags.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return err
			}
			return usageError{err.Error()}
		}
		if args = env.flags.Args(); len(args) == 0 {
			return nil
		}
		env.args, args = append(env.args, args[0]), args[1:]
	}
}

// name returns the only argument, the name of the connection.
func (env *environment) name() (string, error) {
	switch {
	case len(env.args) == 0:
		return "", usageError{"the NAME of the connection is missing: give the one that the other side has"}
	case len(env.args) > 1:
		return "", usagef("too many arguments: %q follows the NAME", env.args[1])
	}
	return env.args[0], nil
}

// noRest fails if there is a "--".
func (env *environment) noRest() error {
	if env.hasRest {
		return usagef("nothing can follow --, but %q does", strings.Join(env.rest, " "))
	}
	return nil
}

// notef prints a line to standard error that is not an error.
func (env *environment) notef(format string, args ...any) {
	fmt.Fprintf(env.stderr, "gipc: "+format+"\n", args...)
}

// noteTerminal notes that standard input is read, if it is a terminal.
func (env *environment) noteTerminal(what string) {
	if isTerminal(env.stdin) {
		env.notef("reading %s from this terminal; Ctrl-D ends the input", what)
	}
}

func (env *environment) printHelp(w io.Writer) {
	c := env.command
	fmt.Fprintf(w, "usage: gipc %s [flags] %s\n\n%s\n\nFlags:\n", c.name, c.args, strings.TrimSpace(c.help))
	env.flags.SetOutput(w)
	env.flags.PrintDefaults()
	env.flags.SetOutput(io.Discard)
}

// errQuiet ends a command with exit code 1 after it has printed what failed.
var errQuiet = errors.New("failed")

// A usageError is a command line that cannot be used.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// describe returns the text of err without the prefix of the library, which
// is printed before it already.
func describe(err error) string { return strings.ReplaceAll(err.Error(), "gipc: ", "") }

// failure returns an error whose text is what failed, why, and what to do.
func failure(what string, err error, advice string) error {
	if advice == "" {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %s", what, err, advice)
}

// connectAdvice returns what to do if a client could not connect.
func connectAdvice(err error, name string) string {
	switch {
	case errors.Is(err, gipc.ErrSecret):
		return "give both sides the same NAME and the same -secret-file, or neither a secret"
	case errors.Is(err, gipc.ErrEncryption):
		return "give -plain to both sides or to neither"
	case errors.Is(err, gipc.ErrConfig), errors.Is(err, gipc.ErrUntrustedServer), errors.Is(err, gipc.ErrRefused):
		return ""
	case errors.Is(err, gipc.ErrTimeout):
		return fmt.Sprintf("start a server, for example with gipc listen %s, or wait longer with -wait", name)
	}
	return ""
}
