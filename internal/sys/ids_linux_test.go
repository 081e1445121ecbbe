package sys

import (
	"os"
	"strings"
	"testing"
)

func TestMappingOfAllIDs(t *testing.T) {
	t.Parallel()
	for mapping, want := range map[string]bool{
		"         0          0 4294967295\n":  true,
		"0 0 4294967295":                      true,
		"0 1000 1\n":                          false,
		"0 1000 1\n1 100000 65536\n":          false,
		"0 0 65534\n65534 65534 4294901761\n": true,
		"65534 65534 1\n":                     false,
		"":                                    false,
		"no mapping\n":                        false,
		"0 0 4294967294\n":                    false,
	} {
		if got := mapsAll(mapping); got != want {
			t.Errorf("%q: %t", mapping, got)
		}
	}
}

func TestUnmappedIDs(t *testing.T) {
	t.Parallel()
	mapping, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Skip("this test needs /proc: ", err)
	}
	if _, err := os.ReadFile("/proc/sys/kernel/overflowuid"); err != nil {
		t.Skip("this test needs /proc/sys: ", err)
	}
	for _, id := range []uint32{0, 1, 1000, 65533, 65535, 1<<32 - 2} {
		if isUnmapped(id, userIDs) || isUnmapped(id, groupIDs) {
			t.Errorf("%d is unmapped", id)
		}
	}
	if got := isUnmapped(defaultOverflow, userIDs); got != !mapsAll(strings.TrimSpace(string(mapping))) {
		t.Errorf("the overflow ID: %t, with %q", got, mapping)
	}
}

// In the initial namespace every ID has a number.
func TestInitialNamespace(t *testing.T) {
	t.Parallel()
	mapping, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Skip("this test needs /proc: ", err)
	}
	if inInitialNamespace() && !mapsAll(string(mapping)) {
		t.Errorf("the initial user namespace maps %q", mapping)
	}
}
