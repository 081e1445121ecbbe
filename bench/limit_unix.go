// How many files a process may open, where the system has such a limit.

//go:build unix

package main

import "syscall"

// raiseFiles raises the limit as far as it goes and returns it.
func raiseFiles() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 1024
	}
	const enough = 25000
	if l.Cur < enough {
		more := l
		more.Cur, more.Max = enough, max(l.Max, enough) // beyond Max for those who may
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more) != nil {
			l.Cur = l.Max
			syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
		}
		syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
	}
	return int(min(uint64(l.Cur), 1<<20))
}

// processorTime is what this process and its children that have ended used, in seconds.
func processorTime() float64 {
	sum := 0.0
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			sum += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
		}
	}
	return sum
}
