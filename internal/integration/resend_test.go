package integration_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

func init() { children["resend: server"] = resendServer }

// TestResendIsTheExample checks that TestSoakResend runs the code of the Example.
func TestResendIsTheExample(t *testing.T) {
	t.Parallel()
	code := func(file string) string {
		text, err := os.ReadFile(file)
		Must(t, err)
		_, code, ok := strings.Cut(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n// Types of messages.\n")
		if !ok {
			t.Fatalf("%s does not contain the code of the Example", file)
		}
		return code
	}
	if code("resend_recipe_test.go") != code(filepath.Join("..", "..", "example_resend_test.go")) {
		t.Error("resend_recipe_test.go differs from example_resend_test.go: copy what follows the types of messages")
	}
}

// TestSoakResend restarts the server of the Example under load, by SIGKILL and by
// Close in turn: each job is done once and in order. GIPC_SOAK_RESTARTS
// is the number of restarts.
func TestSoakResend(t *testing.T) {
	t.Parallel()
	restarts := EnvInt(t, "GIPC_SOAK_RESTARTS", 10)
	address, path := TempSocket(t), filepath.Join(t.TempDir(), "journal")
	byKill := func(i int) bool { return i%2 == 0 }
	torn := 0
	start := func(i int) *Child { // the server before restart i
		t.Helper()
		limit, tear := rand.IntN(400), i < restarts && i%4 == 0
		if tear {
			limit++
			torn++
		}
		return StartChild(t, "resend: server", address, path, strconv.Itoa(limit), strconv.FormatBool(tear))
	}
	want := func(server *Child, want string) {
		t.Helper()
		if line := server.Line(); line != want {
			t.Fatalf("the server: %q, want %q", line, want)
		}
	}

	var wg sync.WaitGroup
	stop, dialed := make(chan struct{}), make(chan struct{}, 1)
	finish := sync.OnceFunc(func() { close(stop); wg.Wait() })
	t.Cleanup(finish) // the client is closed by then
	server := start(0)
	var mu sync.Mutex
	var conns []net.Conn
	client := startClient(t, &gipc.ClientConfig{Name: "jobs", Network: "unix", Address: address, RetryTimer: 10 * time.Millisecond,
		Upgrade: func(conn net.Conn) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, conn)
			select {
			case dialed <- struct{}{}:
			default:
			}
			return conn, nil
		}})
	jobs := newOutbox(client)
	t.Cleanup(func() {
		jobs.mu.Lock()
		defer jobs.mu.Unlock()
		if t.Failed() && jobs.err != nil {
			t.Log("the outbox: ", jobs.err)
		}
	})
	var added [4]int // by each producer
	produce := func(p int, ready func() bool) {
		for ready() && jobs.add(producerJob(p, added[p])) == nil {
			added[p]++
		}
	}
	for p := range added[1:] {
		wg.Go(func() {
			produce(p+1, func() bool { // leaves some of the room to producer 0
				jobs.mu.Lock()
				defer jobs.mu.Unlock()
				for len(jobs.kept) > 900 && jobs.err == nil {
					jobs.changed.Wait()
				}
				select {
				case <-stop:
					return false
				default:
					return true
				}
			})
		})
	}
	wg.Go(func() {
		produce(0, func() bool { // on each new connection, before the server's number has arrived
			select {
			case <-stop:
				return false
			case <-dialed:
				return client.WaitConnected(context.Background()) == nil
			}
		})
	})
	for i := range restarts {
		want(server, "limit")
		if !byKill(i) {
			server.Say("close")
			want(server, "closed")
		}
		server.Kill()
		server = start(i + 1)
	}
	want(server, "limit")
	Must(t, Do(t, "the producers", func() error { finish(); return nil }))
	WantErr(t, "the outbox", Do(t, "the last jobs", jobs.wait))
	stats := client.Stats()
	if err := Do(t, "Close", client.Close); err != nil && !errors.Is(err, gipc.ErrUnconfirmed) { // of what was sent again
		t.Errorf("Close: %v", err)
	}
	server.Say("close")
	want(server, "closed")
	mu.Lock()
	defer mu.Unlock()
	for i, conn := range conns {
		if err := conn.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("connection %d of %d is left open", i+1, len(conns))
		}
	}

	text, err := os.ReadFile(path)
	Must(t, err)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	var done [len(added)]int
	for i, line := range lines {
		var number, producer, job int
		if _, err := fmt.Sscanf(line, "%d job %d of producer %d", &number, &job, &producer); err != nil || producer >= len(done) {
			t.Fatalf("line %d of the journal is %q: %v", i+1, line, err)
		}
		if number != i+1 || job != done[producer] || line != fmt.Sprintf("%d %s", number, producerJob(producer, job)) {
			t.Fatalf("line %d of the journal is %q, want job %d of producer %d with number %d", i+1, line, done[producer], producer, i+1)
		}
		done[producer]++
	}
	if done != added {
		t.Errorf("%v jobs were done, want %v", done, added)
	}
	resent := int(stats.Sent) - len(lines)
	t.Logf("%d restarts, %d connections lost, %d jobs, %d sent again, %d lines torn", restarts, stats.Reconnects, len(lines), resent, torn)
	if restarts > 0 && (resent == 0 || stats.Reconnects == 0) {
		t.Error("no job was sent again: the server was not restarted under load")
	}
}

func producerJob(producer, job int) string {
	return fmt.Sprintf("job %d of producer %d", job, producer)
}

// resendServer is the server of the Example. Its arguments are its address, its
// journal, and a number of jobs: after so many it prints "limit". If the last
// argument is true, only half of the last line is written, and the server hangs.
func resendServer(args []string) error {
	err := serveUntilLimit(args)
	if err != nil {
		fmt.Println("failed:", err)
	}
	return err
}

func serveUntilLimit(args []string) error {
	limit, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	server, err := gipc.StartServer(&gipc.ServerConfig{Name: "jobs", Network: "unix", Address: args[0]})
	if err != nil {
		return err
	}
	file, done, err := openJournal(args[1])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		bufio.NewReader(os.Stdin).ReadString('\n') // or the test has ended
		cancel()
	}()
	if limit == 0 {
		fmt.Println("limit")
	}
	err = serveJobs(ctx, server, &limitedJournal{ctx, file, limit, args[3] == "true"}, done)
	if !errors.Is(err, context.Canceled) {
		return err
	}
	if err := errors.Join(file.Close(), server.Close()); err != nil {
		return err
	}
	fmt.Println("closed")
	return nil
}

// A limitedJournal reports that the last of left lines has been written.
type limitedJournal struct {
	ctx  context.Context
	file *os.File
	left int
	torn bool // the last line is written in half
}

func (j *limitedJournal) Write(line []byte) (int, error) {
	j.left--
	if j.left == 0 && j.torn {
		j.file.Write(line[:len(line)/2])
		fmt.Println("limit")
		<-j.ctx.Done() // or killed
		return 0, j.ctx.Err()
	}
	n, err := j.file.Write(line)
	if j.left == 0 {
		fmt.Println("limit")
	}
	return n, err
}
