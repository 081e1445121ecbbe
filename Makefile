# Short names for what one does all day. .ci/run holds the commands themselves
# where both need them.

FUZZTIME ?= 20s

.PHONY: all test race run fuzz bench benchmarks check

all: test run

test: # the README's command
	go vet ./...
	go test ./...

race:
	.ci/run race

run: # the programs that greet each other
	go run ./example/simple
	go run ./example/timed

fuzz: # every target, FUZZTIME each
	FUZZTIME=$(FUZZTIME) .ci/run fuzz

bench: # beside raw sockets and other libraries; BENCHFLAGS=-quick for a first look
	cd bench && go run . $(BENCHFLAGS)

benchmarks: # of the package, for benchstat
	go test -run '^$$' -bench . -benchmem -timeout 30m .

check: # everything that has to hold before a change goes in
	.ci/run
