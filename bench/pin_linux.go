// Pinning of processes to cores.

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pinCores returns the two cores of the pinned rows. The second one is not a hyperthread
// of the first one if there is any other.
func pinCores() ([2]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return [2]int{}, err
	}
	var cores []int
	for core := 0; len(cores) < set.Count(); core++ {
		if set.IsSet(core) {
			cores = append(cores, core)
		}
	}
	if len(cores) < 2 {
		return [2]int{}, errors.New("only one core is available")
	}
	siblings := threadSiblings(cores[0])
	for _, core := range cores[1:] {
		if !slices.Contains(siblings, core) {
			return [2]int{cores[0], core}, nil
		}
	}
	return [2]int{cores[0], cores[1]}, nil
}

// threadSiblings returns the hyperthreads of a core, itself included. It is empty if
// the kernel does not report them.
func threadSiblings(core int) (siblings []int) {
	text, _ := os.ReadFile(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", core))
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err != nil || err2 != nil {
			continue
		}
		for n := from; n <= to; n++ {
			siblings = append(siblings, n)
		}
	}
	return siblings
}

// startOnCore calls start on a thread that is pinned to a core, because a new process
// inherits the affinity of the thread that starts it.
func startOnCore(core int, start func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		var before, pinned unix.CPUSet
		pinned.Set(core)
		err := unix.SchedGetaffinity(0, &before)
		if err == nil {
			err = unix.SchedSetaffinity(0, &pinned)
		}
		if err == nil {
			err = start()
		}
		// A thread that stays locked exits with its goroutine.
		if unix.SchedSetaffinity(0, &before) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
