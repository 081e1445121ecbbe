// Tests of the command gipc conform: processes, reports, expected failures, and
// the client in Node.js.

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/gipc/internal/testutil"
)

// conform runs gipc conform with the small client as a process, in which one
// thing is broken.
func conform(t *testing.T, broken string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	client := filepath.Join(t.TempDir(), "client.sh")
	script := "#!/bin/sh\nTEST_GIPC=client:" + broken + " exec '" + os.Args[0] + "'\n"
	if err := os.WriteFile(client, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	code = run(t.Context(), append(append([]string{"conform"}, args...), "--", "sh", client), nil, &out, &errs)
	return code, out.String(), errs.String()
}

// TestConformReport: the table and the JSON of a client that holds and fails.
func TestConformReport(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := conform(t, "drops-empty", "-run", "^(connect|echo)$")
	lines := strings.Split(stdout, "\n")
	if code != 1 || stderr != "" || len(lines) < 5 ||
		!strings.HasPrefix(lines[0], "held        connect ") || !strings.HasPrefix(lines[1], "failed      echo ") ||
		!strings.HasPrefix(lines[2], "            [R-8] the client sent a message of type 2 ") || !strings.Contains(stdout, "\n2 scenarios: 1 held, 1 failed\n") {
		t.Errorf("the exit code is %d, standard error %q, and the output\n%s", code, stderr, stdout)
	}
	code, stdout, _ = conform(t, "drops-empty", "-run", "^echo$", "-o", "json", "-network", "tcp")
	var res result
	if err := json.Unmarshal([]byte(stdout), &res); err != nil || code != 1 || res.Scenario != "echo" || res.Result != resultFailed || res.ID != "R-8" || res.Problem == "" {
		t.Errorf("the exit code is %d, %v, and the output %s", code, err, stdout)
	}
	if code, stdout, _ := conform(t, "", "-run", "^connect$"); code != 0 || !strings.Contains(stdout, "1 scenario: 1 held") {
		t.Errorf("the exit code is %d, and the output %s", code, stdout)
	}
}

// TestConformExpect: a list of expected failures, which must fail.
func TestConformExpect(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "expected")
	list := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list("# known\n\necho # it loses empty messages\n")
	if code, stdout, _ := conform(t, "drops-empty", "-run", "^(connect|echo)$", "-expect", path); code != 0 || !strings.Contains(stdout, "1 held, 1 expected") {
		t.Errorf("the exit code is %d, and the output\n%s", code, stdout)
	}
	list("connect\necho\n")
	if code, stdout, _ := conform(t, "drops-empty", "-run", "^(connect|echo)$", "-expect", path); code != 1 || !strings.Contains(stdout, "unexpected  connect") || !strings.Contains(stdout, "remove it from the list") {
		t.Errorf("the exit code is %d, and the output\n%s", code, stdout)
	}
	list("ehco\n")
	if code, _, stderr := conform(t, "", "-expect", path); code != 2 || !strings.Contains(stderr, `line 1: "ehco" is not a scenario`) {
		t.Errorf("the exit code is %d, and standard error %s", code, stderr)
	}
	if code, _, stderr := conform(t, "", "-expect", path+"x"); code != 1 || !strings.Contains(stderr, "reading the expected failures") {
		t.Errorf("the exit code is %d, and standard error %s", code, stderr)
	}
}

// TestConformClients: clients that are no clients.
func TestConformClients(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ script, result, text string }{
		{"exit 77", "skipped", "cannot do this"},
		{"exit 0", "failed", "the client did not connect"},
		{"echo no such module >&2; exit 1", "failed", "| no such module"},
		{"sleep 100", "failed", "did not"},
		{"kill -9 $$", "failed", "did not connect"},
	} {
		cmd := start(t, nil, "conform", "-run", "^connect$", "-timeout", "2s", "--", "sh", "-c", c.script).ends(1)
		if out := cmd.stdout.String(); !strings.HasPrefix(out, c.result) || !strings.Contains(out, c.text) {
			t.Errorf("%s: the output is\n%s", c.script, out)
		}
	}
	start(t, nil, "conform", "--", "/no/such/client").ends(1).wantErrors("starting the client", "check the COMMAND")
}

// TestConformList lists every scenario.
func TestConformList(t *testing.T) {
	t.Parallel()
	out := start(t, nil, "conform", "-list").ends(0).stdout.String()
	for _, s := range scenarios() {
		if !strings.Contains(out, "\n"+s.name+" ") || !strings.Contains(out, s.summary) {
			t.Errorf("the list lacks %s", s.name)
		}
	}
}

// TestConformInterrupt: a signal ends it, and the client with it.
func TestConformInterrupt(t *testing.T) {
	t.Parallel()
	cmd, stdout, stderr := process(t, "main", nil, "conform", "-run", "^connect$", "--", "sh", "-c", "kill -INT $PPID; sleep 100")
	if code := exitCode(t, cmd); code != 1 || !strings.Contains(stderr.String(), "interrupted after 0 scenarios") {
		t.Errorf("the exit code is %d, the output %q, standard error %q", code, stdout, stderr)
	}
}

// someForNode are the scenarios that TestConformNode runs. All of them take half a
// minute, most of it for starting Node.js.
const someForNode = "^(connect(-secret|-records-behind|-waits|-split)?|echo-(sizes.*|small-limit)|too-large|requests-.*|ping|close-(server-.*|client-messages|crossing|ack-.*)" +
	"|reconnect|rekey|secret-wrong|refused-zero|hostile-(point|confirmation|tag|replay|large-tag|record-data|frame-long-plain|request-gap|kind-critical)|truncated-(inside|data)|library-restart)$"

// TestConformNode: the client in Node.js conforms. With GIPC_CONFORM_ALL=1 it runs
// every scenario.
func TestConformNode(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("node is not there")
	}
	args := []string{"conform", "-jobs", "4", "-timeout", "60s"}
	switch {
	case testutil.EnvInt(t, "GIPC_CONFORM_ALL", 0) != 0:
	case testutil.RaceEnabled || testing.Short():
		args = append(args, "-run", "^(connect|echo-sizes|requests-both|rekey|hostile-tag|truncated-inside)$")
	default:
		args = append(args, "-run", someForNode)
	}
	cmd := start(t, nil, append(args, "--", "node", filepath.Join("..", "..", "spec", "node", "conform.mjs"))...)
	select {
	case code := <-cmd.code:
		if code != 0 {
			t.Errorf("the exit code is %d\n%s\n%s", code, cmd.stdout, cmd.stderr)
		}
	case <-time.After(3 * time.Minute):
		t.Error("it does not end")
	}
}
