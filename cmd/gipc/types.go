// The message types that gipc gives a meaning to. A program that talks to gipc
// is free to use all others.

package main

const (
	defaultType = 1          // of messages and requests that gipc sends
	benchEcho   = 1734963296 // a request of gipc bench, which is answered with its data
	benchData   = 1734963297 // a message of gipc bench, which is counted and not printed
	errorReply  = 1734963298 // a reply with the reason, as text, why the request failed
)
