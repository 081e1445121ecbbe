// gipc version.

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

func versionCommand() command {
	return command{
		name: "version", summary: "print the version",
		help: `Version prints the version of the module, as it was built, and that of Go.

Example:

  gipc version`,
		run: version,
	}
}

func version(env *environment) error {
	if len(env.args) > 0 || env.hasRest {
		return usagef("version has no arguments")
	}
	fmt.Fprintf(env.stdout, "gipc %s, %s, %s/%s\n", moduleVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}

// moduleVersion returns the version that the build recorded, with the revision
// if it is not a release.
func moduleVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "of unknown version"
	}
	return info.Main.Version
}
