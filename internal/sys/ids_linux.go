// Linux: users and groups without a number in this process's user namespace.

package sys

import (
	"fmt"
	"os"
	"strings"
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
	overflow := uint64(defaultOverflow)
	if text, err := os.ReadFile("/proc/sys/kernel/overflow" + string(kind)); err == nil {
		fmt.Sscan(string(text), &overflow)
	}
	if uint64(id) != overflow {
		return false
	}
	mapping, err := os.ReadFile("/proc/self/" + string(kind) + "_map")
	return err != nil || !mapsAll(string(mapping))
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
