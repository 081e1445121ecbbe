//go:build race

package gipc

const raceEnabled = true
