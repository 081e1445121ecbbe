// Linux: users and groups without a number in this process's user namespace.

package sys

import (
	"os"
	"strconv"
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

// inInitialNamespace reports whether this process is in the system's first user
// namespace, in which every ID has a number. It is one system call, while isUnmapped
// takes six and three times as long, and a server asks for each connection.
func inInitialNamespace() bool {
	const initialUserNamespace = "user:[4026531837]" // USER_NS_INIT_INO in linux/nsfs.h
	var link [32]byte
	n, err := syscall.Readlink("/proc/self/ns/user", link[:])
	return err == nil && string(link[:n]) == initialUserNamespace
}

// overflowOf returns the overflow ID.
func overflowOf(kind idKind) uint32 {
	text, _ := os.ReadFile("/proc/sys/kernel/overflow" + string(kind)) // without a text there is no number
	overflow, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return defaultOverflow
	}
	return uint32(overflow)
}

// mapsAll reports whether a mapping, as the kernel prints it, has every ID in it. A line
// is the first ID inside, the first ID outside, and their number. fmt.Sscan is not used,
// because it adds 57 kB to a program.
func mapsAll(mapping string) bool {
	sum := uint64(0)
	for line := range strings.Lines(mapping) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		if length, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
			sum += length
		}
	}
	return sum >= allIDs
}
