// Package integration has tests that use the exported surface of the library
// alone, on every kind of transport and with every kind of fault.
package integration
