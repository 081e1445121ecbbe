//go:build !race

package gipc

const raceEnabled = false
