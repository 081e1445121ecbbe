// The code of the Example of sending again after a loss, for a test of it with
// processes. It is a copy: see TestResendIsTheExample.

package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"example.com/gipc"
)

// Types of messages.
const (
	jobType  = 1 // from the client: the number of a job, and the job
	doneType = 2 // from the server: the number of the last job that it has done
)

// An outbox gives each job a number, sends the jobs in order, and keeps each until
// the server has done it.
type outbox struct {
	client  *gipc.Client
	mu      sync.Mutex // guards the fields below
	changed *sync.Cond // signaled when a field below changes
	done    uint64     // the number of the last job that is done
	kept    []string   // the jobs after it
	conn    uint64     // the connection to send on; 0 before the first
	next    uint64     // the number of the job to send there next
	err     error      // why nothing is sent any more
}

// newOutbox returns an outbox that sends until the client is closed. Nothing else
// reads from the client or writes to it.
func newOutbox(client *gipc.Client) *outbox {
	o := &outbox{client: client}
	o.changed = sync.NewCond(&o.mu)
	for _, run := range []func() error{o.receive, o.send} {
		go func() {
			err := run()
			o.mu.Lock()
			defer o.mu.Unlock()
			if o.err == nil {
				o.err = err
			}
			o.changed.Broadcast()
		}()
	}
	return o
}

// add appends a job, a line of text. It waits while 1,000 jobs are not done.
func (o *outbox) add(job string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.kept) == 1000 && o.err == nil {
		o.changed.Wait()
	}
	o.kept = append(o.kept, job)
	o.changed.Broadcast()
	return o.err
}

// wait waits until all jobs are done.
func (o *outbox) wait() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.kept) > 0 && o.err == nil {
		o.changed.Wait()
	}
	return o.err
}

// receive reads which jobs are done.
func (o *outbox) receive() error {
	for message, err := range o.client.Messages(context.Background()) {
		if err != nil {
			return err
		}
		done, err := strconv.ParseUint(string(message.Data), 10, 64)
		if err != nil {
			return err
		}
		if err := o.forget(message.Conn, done); err != nil {
			return err
		}
	}
	return gipc.ErrClosed
}

// forget removes the jobs that are done. After the first message on a connection, the
// jobs that remain are sent there.
func (o *outbox) forget(conn, done uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conn == 0 { // nothing was sent yet: these are jobs of an earlier client
		o.done = done
	}
	n := done - o.done
	if n > uint64(len(o.kept)) || conn == o.conn && done >= o.next {
		return fmt.Errorf("the server has done the jobs up to %d, and this client has sent none but %d to %d", done, o.done+1, o.next-1)
	}
	o.done, o.kept = done, o.kept[n:]
	if conn != o.conn { // continue there after what is done
		o.conn, o.next = conn, done+1
	}
	o.changed.Broadcast()
	return nil
}

// send sends the jobs in order. After a loss it sends those again that are not done.
func (o *outbox) send() error {
	for {
		o.mu.Lock()
		for o.err == nil && (o.conn == 0 || o.next > o.done+uint64(len(o.kept))) {
			o.changed.Wait()
		}
		if o.err != nil {
			o.mu.Unlock()
			return nil
		}
		conn, job := o.conn, fmt.Appendf(nil, "%d %s", o.next, o.kept[o.next-o.done-1])
		o.next++
		o.mu.Unlock()

		err := o.client.WriteOn(context.Background(), conn, jobType, job)
		if errors.Is(err, gipc.ErrNotConnected) || errors.Is(err, gipc.ErrUnconfirmed) {
			continue // conn is over; the job is kept for the next one
		}
		if err != nil {
			return err
		}
	}
}

// serveJobs does jobs until ctx is done. A line of the journal is both the work and
// the memory of it, so that kill -9 cannot come between the two.
func serveJobs(ctx context.Context, server *gipc.Server, journal io.Writer, done uint64) error {
	for {
		message, err := server.ReadContext(ctx)
		if err != nil {
			return err
		}
		switch {
		case message.Is(gipc.Connected): // the client continues after the job of this number
		case message.MsgType == jobType:
			var number uint64
			if _, err := fmt.Sscan(string(message.Data), &number); err != nil || number != done+1 {
				return fmt.Errorf("job %q came after job %d", message.Data, done)
			}
			if _, err := fmt.Fprintf(journal, "%s\n", message.Data); err != nil {
				return err
			}
			done = number
		default:
			continue
		}
		// If this fails, the client gets the number when it has reconnected.
		server.WriteOn(ctx, message.Conn, doneType, fmt.Append(nil, done))
	}
}

// openJournal returns the journal and the number of jobs in it. It removes the
// incomplete last line of a server that was killed: that job was not done.
func openJournal(path string) (*os.File, uint64, error) {
	journal, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	lines, err := io.ReadAll(journal)
	if err == nil {
		lines = lines[:bytes.LastIndexByte(lines, '\n')+1]
		err = os.Truncate(path, int64(len(lines)))
	}
	if err != nil {
		journal.Close()
		return nil, 0, err
	}
	return journal, uint64(bytes.Count(lines, []byte("\n"))), nil
}
