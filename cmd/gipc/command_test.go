// Tests of the commands: what they print, their exit codes, and their errors.

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUsage: the help, and command lines that cannot be used.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args   string // with spaces between them
		code   int
		stdout string
		stderr string
	}{
		{"", 0, "gipc listen NAME", ""},
		{"help", 0, "gipc listen NAME", ""},
		{"-h", 0, "gipc conform -- COMMAND", ""},
		{"help send", 0, "usage: gipc send", ""},
		{"listen -h", 0, "-reply text", ""},
		{"send -h", 0, "-file file", ""},
		{"call -h", 0, "-timeout time", ""},
		{"bench -h", 0, "-sizes bytes", ""},
		{"conform -h", 0, "-expect file", ""},
		{"version -h", 0, "usage: gipc version", ""},
		{"version", 0, "gipc ", ""},
		{"sned", 2, "", `"sned" is not a command`},
		{"version now", 2, "", "version has no arguments"},
		{"listen", 2, "", "NAME of the connection is missing"},
		{"listen a b", 2, "", `too many arguments: "b"`},
		{"listen a -reply", 2, "", "flag needs an argument"},
		{"listen a --", 2, "", "the command after -- is missing"},
		{"listen a -reply x -- cat", 2, "", "cannot both answer"},
		{"listen a -jobs 0", 2, "", "-jobs 0 is too low"},
		{"listen a -timeout 0s", 2, "", "-timeout 0s is too low"},
		{"listen a -reply-type -1", 2, "", "-reply-type -1 is not a message type"},
		{"listen a -o yaml", 2, "", "-o: not one of its formats"},
		{"listen a -log loud", 2, "", "-log loud is not a level"},
		{"listen a -network udp", 2, "", "Network is"},
		{"listen a/b", 2, "", "Name is"},
		{"listen a -secret-of x", 2, "", "give CLIENT=file"},
		{"send", 2, "", "NAME of the connection is missing"},
		{"send a -type 0", 2, "", "-type 0 is not a message type"},
		{"send a -- b", 2, "", "nothing can follow --"},
		{"send a -what", 2, "", "flag provided but not defined: -what"},
		{"call", 2, "", "NAME of the connection is missing"},
		{"call a b c", 2, "", `quote the TEXT, as in "b c"`},
		{"bench a -sizes x", 2, "", `"x" is not a size`},
		{"bench a -duration 0s", 2, "", "-duration 0s is too low"},
		{"conform", 2, "", "COMMAND that starts the client is missing"},
		{"conform node x", 2, "", `"node" is not expected`},
		{"conform -run ( -- x", 2, "", "not a regular expression"},
		{"conform -run zzz -- x", 2, "", "matches no scenario"},
		{"conform -network udp -- x", 2, "", "-network udp is not a network"},
		{"conform -jobs 0 -- x", 2, "", "-jobs 0 is too low"},
		{"conform -timeout -1s -- x", 2, "", "-timeout -1s is too low"},
	} {
		cmd := start(t, strings.NewReader(""), strings.Fields(c.args)...).ends(c.code)
		if !strings.Contains(cmd.stdout.String(), c.stdout) {
			t.Errorf("gipc %s: the output is %q, without %q", c.args, cmd.stdout, c.stdout)
		}
		if cmd.wantErrors(c.stderr); c.stderr == "" && cmd.stderr.String() != "" {
			t.Errorf("gipc %s: standard error is %q", c.args, cmd.stderr)
		}
		if c.code == 2 && !strings.HasSuffix(cmd.stderr.String(), "\n") {
			t.Errorf("gipc %s: standard error is %q, without a line end", c.args, cmd.stderr)
		}
	}
}

// TestHelpExamples: each help has an example of its own command.
func TestHelpExamples(t *testing.T) {
	t.Parallel()
	for _, c := range commands() {
		if !strings.Contains(c.help, "Example") || !strings.Contains(c.help, "\n  gipc "+c.name) {
			t.Errorf("the help of %s has no example", c.name)
		}
	}
}

// TestCall: replies, and requests that fail.
func TestCall(t *testing.T) {
	t.Parallel()
	server, address := listen(t, "-reply", "light rain", "-reply-type", "7")
	start(t, nil, "call", "test", "hello", "-address", address).ends(0).wantOutput("light rain\n")
	start(t, nil, "call", "-address", address, "test", "-o", "hex", "--", "-hello").ends(0).wantOutput("6c69676874207261696e\n")
	start(t, strings.NewReader("from stdin\n"), "call", "test", "-address", address, "-o", "json").ends(0).wantOutput(`{"type":7,"length":10,"data":"light rain"}` + "\n")
	server.stop()
	server.wantOutput("hello\n-hello\nfrom stdin\n\n")
}

// TestCallCommand: a command answers, fails, takes too long, or prints too much.
func TestCallCommand(t *testing.T) {
	t.Parallel()
	script := `read -r line
case $line in
upper*) echo "$line" | tr a-z A-Z;;
fail*) echo "no such city" >&2; exit 3;;
slow*) sleep 100;;
much*) head -c 5000 /dev/zero;;
type*) echo "$GIPC_TYPE $GIPC_CLIENT";;
esac`
	_, address := listen(t, "-timeout", "1s", "-max-size", "2000", "--", "sh", "-c", script)
	call := func(text string) *cli { return start(t, nil, "call", "test", text, "-address", address, "-type", "5") }
	call("upper case").ends(0).wantOutput("UPPER CASE\n\n")
	call("fail").ends(1).wantErrors("the request failed at the server: sh: exit status 3: no such city")
	call("slow").ends(1).wantErrors("ran for longer than 1s", "raise -timeout")
	call("much").ends(1).wantErrors("printed more than 2000 bytes", "raise -max-size")
	call("type").ends(0).wantOutput("5 5\n\n")
	json := start(t, nil, "call", "test", "fail", "-address", address, "-o", "json").ends(1)
	json.wantOutput(`{"type":1734963298,"length":31,"data":"sh: exit status 3: no such city"}` + "\n")
}

// TestCallNothing: a server that does not answer.
func TestCallNothing(t *testing.T) {
	t.Parallel()
	_, address := listen(t)
	start(t, nil, "call", "test", "x", "-address", address).ends(1).wantErrors("this server answers no requests", "-reply")
	missing, address := listen(t, "--", "/no/such/command")
	start(t, nil, "call", "test", "x", "-address", address).ends(1).wantErrors("/no/such/command", "no such file")
	missing.stderr.until(t, "request of client 1 failed")
}

// TestConnectErrors: what a newcomer meets first.
func TestConnectErrors(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("s", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, address := listen(t, "-secret-file", secret)
	send := func(args ...string) *cli {
		return start(t, strings.NewReader("x\n"), append([]string{"send", "test"}, args...)...)
	}
	send("-address", address+"x", "-wait", "200ms").ends(1).wantErrors(`connecting to "test"`, "no connection within 200ms", "gipc listen test", "-wait")
	send("-address", address).ends(1).wantErrors("secret", "-secret-file")
	start(t, strings.NewReader(""), "send", "tset", "-address", address, "-secret-file", secret).ends(1).wantErrors("secret or name does not match", "same NAME")
	send("-address", address, "-secret-file", secret+"x").ends(1).wantErrors("reading the secret", "no such file", "openssl rand")
	send("-address", address, "-secret-file", secret).ends(0)
	start(t, nil, "listen", "test", "-address", address).ends(1).wantErrors("name or address in use", "stop it")

	_, plain := listen(t, "-plain")
	send("-address", plain).ends(1).wantErrors("encryption", "-plain")
	send("-address", plain, "-plain").ends(0)
}

// TestSecretFile: permissions, and files that cannot be secrets.
func TestSecretFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open, short := filepath.Join(dir, "open"), filepath.Join(dir, "short")
	if err := os.WriteFile(open, []byte(strings.Repeat("s", 32)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(short, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, nil, "listen", "test", "-secret-file", short).ends(1).wantErrors("it has 5 bytes", "openssl rand -out FILE 32")
	server, address := listen(t, "-secret-of", "alice="+open, "-o", "json")
	server.wantErrors("warning: others can read or change the secret", "mode 0644", "chmod 600")
	client := start(t, strings.NewReader("hi\n"), "send", "test", "-address", address, "-secret-file", open).ends(0)
	client.wantErrors("warning")
	server.stdout.until(t, `"Disconnected"`)
	server.wantErrors(`as "alice"`)
	if !strings.Contains(server.stdout.String(), `"data":"hi","client":1,"identity":"alice"`) {
		t.Errorf("the output is %q", server.stdout)
	}
}

// TestJSON: the shape of the lines.
func TestJSON(t *testing.T) {
	t.Parallel()
	server, address := listen(t, "-o", "json", "-n", "4", "-q", "-reply", "x")
	start(t, strings.NewReader("text\n\nb\xffd"), "send", "test", "-address", address, "-type", "9").ends(0)
	start(t, nil, "call", "test", "ask", "-address", address).ends(0)
	server.ends(0)
	server.code <- 0
	want := []string{
		`{"type":-1,"status":"Connected","length":0,"client":1}`,
		`{"type":9,"length":4,"data":"text","client":1}`,
		`{"type":9,"length":0,"data":"","client":1}`,
		`{"type":9,"length":3,"base64":"Yv9k","client":1}`,
		`{"type":-1,"status":"Disconnected","length":0,"client":1}`,
		`{"type":-1,"status":"Connected","length":0,"client":2}`,
		`{"type":1,"length":3,"data":"ask","request":true,"client":2}`,
	}
	lines := strings.Split(server.stdout.String(), "\n")
	for i, line := range want {
		if i >= len(lines) || lines[i] != line {
			t.Fatalf("line %d: the output is\n%s\nwant\n%s", i, server.stdout, strings.Join(want, "\n"))
		}
		if !json.Valid([]byte(line)) {
			t.Errorf("%s is not JSON", line)
		}
	}
}

// TestHex prints data in hexadecimal.
func TestHex(t *testing.T) {
	t.Parallel()
	server, address := listen(t, "-o", "hex", "-n", "2")
	start(t, strings.NewReader("\x00\xff\n\n"), "send", "test", "-address", address).ends(0)
	server.ends(0).wantOutput("00ff\n\n")
	server.code <- 0
}

// TestBench measures against gipc listen, and not against a server that does not
// answer.
func TestBench(t *testing.T) {
	t.Parallel()
	server, address := listen(t)
	table := start(t, nil, "bench", "test", "-address", address, "-duration", "20ms", "-sizes", "0,100,70000").ends(0)
	lines := strings.Split(table.stdout.String(), "\n")
	if len(lines) != 7 || lines[0] != "encrypted" || !strings.Contains(lines[2], "messages/s") || !strings.HasPrefix(strings.TrimSpace(lines[5]), "70000 ") {
		t.Errorf("the table is\n%s", table.stdout)
	}
	rows := start(t, nil, "bench", "test", "-address", address, "-duration", "20ms", "-sizes", "64", "-o", "json").ends(0)
	var row benchResult
	if err := json.Unmarshal([]byte(rows.stdout.String()), &row); err != nil || row.Size != 64 || row.RoundTrips == 0 || row.Median <= 0 || row.P99 < row.Median || row.Count == 0 || row.Megabytes <= 0 {
		t.Errorf("%+v, %v", row, err)
	}
	start(t, nil, "bench", "test", "-address", address, "-duration", "1ms", "-sizes", "5000000").ends(1).wantErrors("5000000 bytes", "-max-size")
	server.stop()
	server.wantOutput("")

	other, address := listen(t, "-no-bench", "-reply", "x")
	start(t, nil, "bench", "test", "-address", address).ends(1).wantErrors("does not answer bench", "gipc listen")
	other.stop()
	other.wantOutput("gipc bench\n")
}

// TestVisible: a peer cannot control a terminal.
func TestVisible(t *testing.T) {
	t.Parallel()
	got := string(appendVisible(nil, []byte("a\tü\n\x1b[31m\xff\u202e\x00")))
	if want := "a\tü\n\\x1b[31m\\xff\\u202e\\x00"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
