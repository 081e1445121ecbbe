// The sender: it walks the tree, and starts over when the connection is lost.

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"example.com/gipc"
)

const attempts = 5

var errLost = errors.New("the connection was lost")

// send carries the tree at dir to the receiver and returns what both sides
// have counted. progress is told after each entry.
func send(ctx context.Context, config *gipc.ClientConfig, dir string, progress func(entries, size uint64)) (totals, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return totals{}, err
	}
	defer root.Close()
	note("sends %s; looking for a receiver", dir)
	client, err := gipc.StartClientContext(ctx, config)
	if err != nil {
		return totals{}, err
	}
	defer client.Close()
	// Close ends whatever is under way, and the receiver learns that.
	defer context.AfterFunc(ctx, func() { client.Close() })()
	ctx = context.WithoutCancel(ctx)

	for n := 1; ; n++ {
		if err := client.WaitConnected(ctx); err != nil {
			return totals{}, err
		}
		sent, err := attempt(ctx, client, root.FS(), progress)
		if !errors.Is(err, errLost) || n == attempts {
			return sent, err
		}
		note("%v; starting over", err)
	}
}

// attempt sends the whole tree once. The receiver's verdict is read beside the
// writing, so that a lost connection or a full disk over there ends it early.
func attempt(ctx context.Context, client *gipc.Client, tree fs.FS, progress func(entries, size uint64)) (totals, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var id attemptID
	rand.Read(id[:])

	type verdict struct {
		all totals
		err error
	}
	verdicts := make(chan verdict, 1)
	go func() {
		all, err := readVerdict(ctx, client, id)
		verdicts <- verdict{all, err}
		stop()
	}()

	sent, writeErr, err := sendTree(ctx, client, id, tree, progress)
	switch {
	case err != nil || errors.Is(writeErr, gipc.ErrTooLarge): // the connection has nothing to do with it
		stop()
	case writeErr != nil: // the verdict, which comes in a moment, knows better why
		defer time.AfterFunc(10*time.Second, stop).Stop()
	}
	v := <-verdicts
	switch {
	case err != nil:
		return totals{}, err
	case writeErr != nil && (v.err == nil || errors.Is(v.err, context.Canceled)):
		return totals{}, writeErr
	case v.err != nil:
		return totals{}, v.err
	case v.all != sent:
		return totals{}, fmt.Errorf("sent %v, and the receiver has %v", sent, v.all)
	}
	return sent, nil
}

// sendTree writes all messages of one attempt. It returns the errors of the
// connection apart from all others.
func sendTree(ctx context.Context, client *gipc.Client, id attemptID, tree fs.FS, progress func(entries, size uint64)) (sent totals, writeErr, err error) {
	write := func(msgType int, data []byte) error {
		if writeErr == nil {
			writeErr = client.WriteContext(ctx, msgType, data)
		}
		return writeErr
	}
	d := newDigest()
	buf := make([]byte, 0, 64<<10+pieceSize) // a name of any length, and a piece
	err = write(msgBegin, id[:])
	if err == nil {
		err = fs.WalkDir(tree, ".", func(name string, item fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			e, content, err := open(tree, name, item)
			var skip errSkip
			if errors.As(err, &skip) {
				note("%s is left out: %v", name, skip)
				return nil
			}
			if err != nil {
				return err
			}
			defer content.Close()
			if len(name) > 1<<16-1 {
				return fmt.Errorf("a name of %d bytes", len(name))
			}

			size := uint64(0)
			msgType, message := msgEntry, e.append(buf)
			for last := false; !last; msgType, message = msgPiece, buf {
				at := len(message) + 1
				piece := message[at : at+pieceSize]
				n, err := io.ReadFull(content, piece)
				last = err == io.EOF || err == io.ErrUnexpectedEOF
				if err != nil && !last {
					return err
				}
				message = append(message, 0)[:at+n]
				if last {
					message[at-1] = 1
				}
				if err := write(msgType, message); err != nil {
					return err
				}
				d.content.Write(piece[:n])
				size += uint64(n)
			}
			if name != "." {
				d.add(e, size)
			}
			progress(d.entries, d.size)
			return nil
		})
	}
	sent = d.result()
	if err == nil {
		err = write(msgEnd, sent.append(id[:]))
	}
	if writeErr != nil {
		err = nil
	}
	return sent, writeErr, err
}

// readVerdict reads until the receiver has judged the attempt or the
// connection is lost.
func readVerdict(ctx context.Context, client *gipc.Client, id attemptID) (totals, error) {
	for {
		m, err := client.ReadContext(ctx)
		if err != nil {
			return totals{}, err
		}
		if m.MsgType == -1 {
			if m.Status == gipc.ReConnecting.String() {
				return totals{}, fmt.Errorf("%w: %v", errLost, why(m))
			}
			continue
		}
		answer, ok := bytes.CutPrefix(m.Data, id[:])
		switch {
		case !ok: // to an earlier attempt
		case m.MsgType == msgDone:
			return parseTotals(answer)
		case m.MsgType == msgFailed:
			return totals{}, fmt.Errorf("the receiver gave up: %q", answer)
		}
	}
}
