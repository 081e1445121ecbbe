# Short names for what one does all day. .ci/run holds the commands themselves
# where both need them.

FUZZTIME ?= 20s
SOAK ?= long
COUNT ?= 1

.PHONY: all test race run fuzz soak bench benchmarks check

all: test run

test: # the README's command
	go vet ./...
	go test ./...

race: # everything under the race detector, COUNT times
	COUNT=$(COUNT) .ci/run race

run: # the programs that greet each other
	go run ./example/simple
	go run ./example/timed

fuzz: # every target, FUZZTIME each
	FUZZTIME=$(FUZZTIME) .ci/run fuzz

soak: # what is promised, counted: long, a number of bad connections, or rows such as "kills=50 closes=1000"
	GIPC_SOAK="$(SOAK)" go test -count=1 -timeout 0 -run '^TestSoak$$'

bench: # beside raw sockets and other libraries; BENCHFLAGS=-quick for a first look
	cd bench && go run . $(BENCHFLAGS)

benchmarks: # of the package, for benchstat
	go test -run '^$$' -bench . -benchmem -timeout 30m .

check: # everything that has to hold before a change goes in
	.ci/run
