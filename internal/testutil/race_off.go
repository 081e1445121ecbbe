// Builds without the race detector.

//go:build !race

package testutil

// RaceEnabled reports whether the race detector watches this build.
const RaceEnabled = false
