// Linux: users and groups without a number in this process's user namespace.

package sys

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// idKind names the files of the kernel about one kind of number: "uid" or "gid".
type idKind string

const (
	userIDs  idKind = "uid"
	groupIDs idKind = "gid"

	defaultOverflow = 65534
	allIDs          = 1<<32 - 1 // the last number of 32 bits is not an ID
)

// isUnmapped reports whether id may stand for IDs that have no number in this
// process's user namespace. The kernel shows one number, the overflow ID, for all
// of them.
func isUnmapped(id uint32, kind idKind) bool {
	if id != overflowOf(kind) {
		return false
	}
	mapping, err := os.ReadFile("/proc/self/" + string(kind) + "_map")
	return err != nil || !mapsAll(string(mapping))
}

// overflowOf returns the overflow ID. It is read for each connection: by three system
// calls, which takes a third of the time of os.ReadFile.
func overflowOf(kind idKind) uint32 {
	fd, err := syscall.Open("/proc/sys/kernel/overflow"+string(kind), syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return defaultOverflow
	}
	defer syscall.Close(fd)
	var text [16]byte
	n, err := syscall.Read(fd, text[:])
	if err != nil {
		return defaultOverflow
	}
	overflow := uint32(defaultOverflow)
	fmt.Sscan(string(text[:n]), &overflow)
	return overflow
}

// mapsAll reports whether a mapping, as the kernel prints it, has every ID in it.
func mapsAll(mapping string) bool {
	sum := uint64(0)
	for line := range strings.Lines(mapping) {
		var inside, outside, length uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &length); err == nil {
			sum += length
		}
	}
	return sum >= allIDs
}
