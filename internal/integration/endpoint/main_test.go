// Tests of the methods of one client and one server, through the exported surface
// alone: reading, writing, closing, connecting, hostile peers.

package endpoint_test

import (
	"os"
	"testing"

	"example.com/gipc/internal/testutil"
)

func TestMain(m *testing.M) { os.Exit(testutil.RunTests(m)) }
