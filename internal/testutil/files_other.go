// Systems other than Unix: no limit of open files.

//go:build !unix

package testutil

import "testing"

// NeedFiles raises the limit of open files to n, or skips the test. This system has
// none.
func NeedFiles(testing.TB, uint64) {}
