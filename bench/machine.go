// What the figures were taken on, and whether it was quiet.

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// A machine is what it was like when the run began.
type machine struct {
	start     time.Time
	load      string
	busy, own float64 // seconds of processor time: of everybody, and of this run
}

func observe() machine {
	return machine{start: time.Now(), load: loadAverage(), busy: busyTime(), own: processorTime()}
}

// facts are the lines of the report. Warnings among them are returned, too.
func (m machine) facts() (lines, warnings []string) {
	took := time.Since(m.start)
	lines = []string{
		fmt.Sprintf("%s, %d cores, %s/%s, kernel %s", processor(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, line("/proc/sys/kernel/osrelease")),
		fmt.Sprintf("%s, GOMAXPROCS %d", runtime.Version(), runtime.GOMAXPROCS(0)),
		"peers: " + strings.Join(peerVersions(), ", "),
		fmt.Sprintf("began %s, took %s", m.start.UTC().Format("2006-01-02 15:04 UTC"), round(took)),
		fmt.Sprintf("load average (1, 5, 15 minutes) %s at the start, %s at the end; the run's own work is in the latter", m.load, loadAverage()),
	}
	if one, err := strconv.ParseFloat(strings.Split(m.load+" ", " ")[0], 64); err == nil && one > 0.3*float64(runtime.NumCPU()) {
		warnings = append(warnings, fmt.Sprintf("WARNING: the load average was %.2f when the run began: the machine was busy, and these figures mean little", one))
	}
	if busy := busyTime(); busy > 0 {
		others := max(0, (busy-m.busy)-(processorTime()-m.own)) / took.Seconds()
		lines = append(lines, fmt.Sprintf("other processes and the host took %.2f of %d cores during the run", others, runtime.NumCPU()))
		if others > 0.1*float64(runtime.NumCPU()) {
			warnings = append(warnings, fmt.Sprintf("WARNING: others took %.2f cores during the run: the machine was busy, and these figures mean little", others))
		}
	}
	return append(lines, warnings...), warnings
}

// peerVersions are the modules of the peers, with their versions.
func peerVersions() (versions []string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return []string{"unknown"}
	}
	for _, m := range info.Deps {
		for _, peer := range []string{"coder/websocket", "hashicorp/yamux", "grpc", "containerd/ttrpc", "go-zeromq/zmq4", "pebbe/zmq4"} {
			if strings.HasSuffix(m.Path, "/"+peer) {
				versions = append(versions, peer+" "+m.Version)
			}
		}
	}
	if text, err := exec.Command("pkg-config", "--modversion", "libzmq").Output(); err == nil {
		versions = append(versions, "libzmq "+strings.TrimSpace(string(text)))
	}
	return append(versions, "net/rpc of Go")
}

// busyTime is how long all processors together have worked, or were taken away
// by the host, in seconds; 0 where the system does not tell.
func busyTime() float64 {
	fields := strings.Fields(line("/proc/stat"))
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0
	}
	ticks := 0.0 // hundredths of a second
	for i, text := range fields[1:9] {
		if n, err := strconv.ParseFloat(text, 64); err == nil && i != 3 && i != 4 { // idle, and waiting for a disk
			ticks += n
		}
	}
	return ticks / 100
}

func loadAverage() string {
	fields := strings.Fields(line("/proc/loadavg"))
	if len(fields) < 3 {
		return "unknown"
	}
	return strings.Join(fields[:3], " ")
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.SplitSeq(string(text), "\n") {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

// line is a file's first line; "" where there is none.
func line(path string) string {
	text, _ := os.ReadFile(path)
	first, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(first)
}
