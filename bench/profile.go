// Profiles of the measured processes.

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
)

var profileCount int // profiles that this process has begun

// startProfile begins a profile of one order, and returns a function that ends it: of the
// heap for the order "memory", of the processor for the others. It does nothing
// without -profiles.
func startProfile(j job, o order) (stop func()) {
	if j.Profiles == "" || o.Do == "rss" || o.Do == "mallocs" {
		return func() {}
	}
	role, kind := "client", "cpu"
	if j.Server {
		role = "server"
	}
	if o.Do == "memory" {
		kind = "heap"
	}
	who := strings.NewReplacer(" ", "-", ",", "", "/", "-").Replace(j.Who.Name)
	profileCount++
	name := fmt.Sprintf("%s-%s-%s-%d-%d.%s.pprof", who, role, o.Do, os.Getpid(), profileCount, kind)
	file, err := os.Create(filepath.Join(j.Profiles, name))
	if err != nil {
		fmt.Fprintln(os.Stderr, "profile not written:", err)
		return func() {}
	}
	if kind == "heap" {
		return func() {
			pprof.Lookup("heap").WriteTo(file, 0)
			file.Close()
		}
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		fmt.Fprintln(os.Stderr, "profile not written:", err)
	}
	return func() {
		pprof.StopCPUProfile()
		file.Close()
	}
}
