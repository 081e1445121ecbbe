package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/gipc"
	. "example.com/gipc/internal/testutil"
)

// loseConnection ends the peer's side without a close, and waits until the
// client has noticed.
func loseConnection(t *testing.T, e endpoint, peer *RawPeer) {
	t.Helper()
	peer.Close()
	Eventually(t, "the loss", func() bool { return e.StatusCode() != gipc.Connected })
}

// nextSends are the calls that report queued messages that were lost.
var nextSends = map[string]func(e endpoint, number int) error{
	"Write": func(e endpoint, number int) error { return e.Write(1, Payload(number, 100)) },
	"WriteContext": func(e endpoint, number int) error {
		return e.WriteContext(context.Background(), 1, Payload(number, 100))
	},
	"Queue": func(e endpoint, number int) error { return e.Queue(1, Payload(number, 100)) },
	"Flush": func(e endpoint, number int) error { return e.Flush() },
}

// TestLostQueuedMessagesAreReportedOnce: the next call that sends reports them,
// with their number, and sends nothing itself.
func TestLostQueuedMessagesAreReportedOnce(t *testing.T) {
	t.Parallel()
	const lost = 7
	for name, next := range nextSends {
		for _, reconnected := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, reconnected %v", name, reconnected), func(t *testing.T) {
				t.Parallel()
				Bubble(t, func(t *testing.T) {
					raw := ListenRaw(t, 1, PipePair)
					client, peer := startPlainClient(t, raw)
					for i := range lost {
						Must(t, client.Queue(1, Payload(i, 100)))
					}
					loseConnection(t, client, peer)
					var ending <-chan Ending
					reconnect := func() {
						raw.Allow()
						ending = raw.Peer().Finish()
						waitConnected(t, client)
					}
					if reconnected {
						reconnect()
					}
					err := Do(t, name, func() error { return next(client, 100) })
					WantErr(t, name+", the first after the loss", err, gipc.ErrNotConnected)
					// Nothing of them was written.
					RejectErr(t, name+", the first after the loss", err, gipc.ErrUnconfirmed)
					if n := lossNumber(err); n != lost {
						t.Errorf("%s reports %d lost messages, want %d: %v", name, n, lost, err)
					}
					if !reconnected {
						err := Do(t, name, func() error { return next(client, 101) })
						WantErr(t, name+", the second after the loss", err, gipc.ErrNotConnected)
						if n := lossNumber(err); n == lost {
							t.Errorf("the loss is reported twice: %v", err)
						}
						reconnect()
					}
					for i := range 3 {
						WantErr(t, name+" after the report", Do(t, name, func() error { return next(client, 200+i) }))
					}
					WantErr(t, "Flush", Do(t, "Flush", client.Flush))
					WantErr(t, "Close", Do(t, "Close", client.Close))
					e := Await(t, "the end", ending)
					for _, f := range e.Frames {
						if numberOf(f.Data) < 200 {
							t.Errorf("message %d arrived, and its call failed or it was reported as lost", numberOf(f.Data))
						}
					}
					if want := 3; name != "Flush" && len(e.Frames) != want {
						t.Errorf("%d messages arrived, want %d", len(e.Frames), want)
					}
				})
			})
		}
	}
}

// TestLostQueuedMessagesAreReportedByClose: if no other call comes first.
func TestLostQueuedMessagesAreReportedByClose(t *testing.T) {
	t.Parallel()
	for _, reconnected := range []bool{true, false} {
		t.Run(fmt.Sprintf("reconnected %v", reconnected), func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				raw := ListenRaw(t, 1, PipePair)
				client, peer := startPlainClient(t, raw)
				for i := range 7 {
					Must(t, client.Queue(1, Payload(i, 100)))
				}
				loseConnection(t, client, peer)
				if reconnected {
					raw.Allow()
					raw.Peer().Finish()
					waitConnected(t, client)
				}
				err := Do(t, "Close", client.Close)
				if !errors.Is(err, gipc.ErrNotConnected) && !errors.Is(err, gipc.ErrUnconfirmed) || !strings.Contains(fmt.Sprint(err), "7") {
					t.Errorf("Close: %v, want a report of 7 lost messages", err)
				}
				WantErr(t, "the second Close", Do(t, "Close", client.Close))
			})
		})
	}
}

// TestLostQueuedMessagesThatMayHaveArrived: where a part of them was written,
// and no call has failed for it, the report matches ErrUnconfirmed too.
func TestLostQueuedMessagesThatMayHaveArrived(t *testing.T) {
	t.Parallel()
	for name, next := range nextSends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				raw := ListenRaw(t, 2, PipePair)
				client, peer := startPlainClient(t, raw)
				const lost = 5
				for i := range lost {
					Must(t, client.Queue(1, Payload(i, 100)))
				}
				ctx, cancel := context.WithCancel(t.Context())
				flush := Go(func() error { return client.WriteContext(ctx, 1, Payload(50, 100)) })
				peer.ReadPart(5) // of the first one
				synctest.Wait()
				cancel()
				WantErr(t, "WriteContext", Await(t, "WriteContext", flush), context.Canceled, gipc.ErrUnconfirmed)
				peer.Close()
				ending := raw.Peer().Finish()
				Eventually(t, "the second connection", func() bool { return client.ID() == 2 })
				err := Do(t, name, func() error { return next(client, 100) })
				WantErr(t, name+" after the loss", err, gipc.ErrNotConnected, gipc.ErrUnconfirmed)
				if n := lossNumber(err); n != lost {
					t.Errorf("%s reports %d lost messages, want %d: %v", name, n, lost, err)
				}
				WantErr(t, "Write after the report", Do(t, "Write", func() error { return client.Write(1, Payload(200, 100)) }))
				WantErr(t, "Close", Do(t, "Close", client.Close))
				if e := Await(t, "the end", ending); len(e.Frames) != 1 || numberOf(e.Frames[0].Data) != 200 {
					t.Errorf("%d messages arrived, want the last one alone", len(e.Frames))
				}
			})
		})
	}
}

// TestCloseReportsEarlierLosses: a program that only writes learns of every
// loss, by Close at the latest. A program that knows of the loss does not.
func TestCloseReportsEarlierLosses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		quiet       bool                                                   // nothing is written on the first connection
		end         func(t *testing.T, client *gipc.Client, peer *RawPeer) // of the first connection; nil: it is lost
		before      func(t *testing.T, client *gipc.Client)                // the second connection is there
		after       func(t *testing.T, client *gipc.Client)                // the second connection is there
		unconfirmed bool
	}{
		"lost, nobody reads": {unconfirmed: true},
		"lost, and more is written": {unconfirmed: true, after: func(t *testing.T, client *gipc.Client) {
			Must(t, Do(t, "Write", func() error { return client.Write(1, Payload(9, 100)) }))
		}},
		"nothing was written": {quiet: true},
		"a reader took the status": {after: func(t *testing.T, client *gipc.Client) {
			if m := wantStatus(t, client, gipc.ReConnecting); m.Err == nil {
				t.Error("the loss has no Err")
			}
		}},
		"a loop over Messages skips the status": {unconfirmed: true, after: func(t *testing.T, client *gipc.Client) {
			ctx, cancel := context.WithCancel(t.Context())
			loop := Go(func() error {
				for _, err := range client.Messages(ctx) {
					return err
				}
				return nil
			})
			synctest.Wait()
			cancel()
			WantErr(t, "Messages", Await(t, "Messages", loop), context.Canceled)
		}},
		"a call failed": {before: func(t *testing.T, client *gipc.Client) {
			err := Do(t, "Write", func() error { return client.Write(1, Payload(9, 100)) })
			WantErr(t, "Write while there is no connection", err, gipc.ErrNotConnected)
		}},
		"WriteOn failed": {after: func(t *testing.T, client *gipc.Client) {
			WantErr(t, "WriteOn", client.WriteOn(t.Context(), 1, 1, nil), gipc.ErrNotConnected)
		}},
		"WriteOn failed on another connection": {unconfirmed: true, after: func(t *testing.T, client *gipc.Client) {
			WantErr(t, "WriteOn", client.WriteOn(t.Context(), 7, 1, nil), gipc.ErrNotConnected)
		}},
		"closed by the peer, acknowledged": {end: func(t *testing.T, client *gipc.Client, peer *RawPeer) {
			peer.SendClose()
			Await(t, "the end", peer.Finish())
		}},
		"closed by the peer, not acknowledged": {unconfirmed: true, end: func(t *testing.T, client *gipc.Client, peer *RawPeer) {
			peer.SendClose()
			Await(t, "the end", peer.FinishWithoutAck())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				raw := ListenRaw(t, 1, PipePair)
				client, peer := startPlainClient(t, raw)
				if !c.quiet {
					for i := range 3 {
						read := Go(func() error { _, err := peer.ReadFrame(); return err })
						Must(t, Do(t, "Write", func() error { return client.Write(1, Payload(i, 100)) }))
						Must(t, Await(t, "the frame", read))
					}
				}
				if c.end != nil {
					c.end(t, client, peer)
				} else {
					peer.Close()
				}
				Eventually(t, "the loss", func() bool { return client.StatusCode() == gipc.ReConnecting })
				synctest.Wait()
				if c.before != nil {
					c.before(t, client)
				}
				raw.Allow()
				ending := raw.Peer().Finish()
				waitConnected(t, client)
				if c.after != nil {
					c.after(t, client)
				}
				err := Do(t, "Close", client.Close)
				if c.unconfirmed {
					WantErr(t, "Close", err, gipc.ErrUnconfirmed)
				} else {
					WantErr(t, "Close", err)
				}
				Await(t, "the end", ending)
			})
		})
	}
}

// TestFailedCallsReportTheirOwnLoss: a call that failed for the first connection
// has not told of the loss of the second one.
func TestFailedCallsReportTheirOwnLoss(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before, after func(t *testing.T, client *gipc.Client) // the second connection is there
	}{
		"Write": {before: func(t *testing.T, client *gipc.Client) {
			WantErr(t, "Write", client.Write(1, nil), gipc.ErrNotConnected)
		}},
		"Flush": {before: func(t *testing.T, client *gipc.Client) {
			WantErr(t, "Flush", client.Flush(), gipc.ErrNotConnected)
		}},
		"WriteOn": {after: func(t *testing.T, client *gipc.Client) {
			WantErr(t, "WriteOn", client.WriteOn(t.Context(), 1, 1, nil), gipc.ErrNotConnected)
		}},
		"a report of queued messages": {after: func(t *testing.T, client *gipc.Client) {
			WantErr(t, "Write", client.Write(1, nil), gipc.ErrNotConnected)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				raw := ListenRaw(t, 1, PipePair)
				client, peer := startPlainClient(t, raw)
				if name == "a report of queued messages" {
					Must(t, client.Queue(1, nil))
				}
				loseConnection(t, client, peer)
				synctest.Wait()
				if c.before != nil {
					c.before(t, client)
				}
				raw.Allow()
				peer = raw.Peer()
				waitConnected(t, client)
				if c.after != nil {
					c.after(t, client)
				}
				read := Go(func() error { _, err := peer.ReadFrame(); return err })
				Must(t, Do(t, "Write", func() error { return client.Write(1, Payload(1, 100)) }))
				Must(t, Await(t, "the frame", read))
				loseConnection(t, client, peer)
				raw.Allow()
				ending := raw.Peer().Finish()
				waitConnected(t, client)
				WantErr(t, "Close", Do(t, "Close", client.Close), gipc.ErrUnconfirmed)
				Await(t, "the end", ending)
			})
		})
	}
}

// TestCloseAfterLossIsUnconfirmed: what was written since the last Connected was
// not acknowledged. A status message that a reader took does not change it.
func TestCloseAfterLossIsUnconfirmed(t *testing.T) {
	t.Parallel()
	for _, statusRead := range []bool{false, true} {
		for _, how := range []string{"lost", "closed", "closed and acknowledged", "nothing was written"} {
			t.Run(fmt.Sprintf("%s, status read %v", how, statusRead), func(t *testing.T) {
				t.Parallel()
				Bubble(t, func(t *testing.T) {
					client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
					if how != "nothing was written" {
						read := Go(func() error { _, err := peer.ReadFrame(); return err })
						Must(t, Do(t, "Write", func() error { return client.Write(1, Payload(1, 100)) }))
						Must(t, Await(t, "the frame", read))
					}
					switch how {
					case "closed":
						peer.SendClose()
						Await(t, "the end", peer.FinishWithoutAck())
					case "closed and acknowledged":
						peer.SendClose()
						Await(t, "the end", peer.Finish())
					default:
						peer.Close()
					}
					if statusRead {
						wantStatus(t, client, gipc.ReConnecting)
					} else {
						Eventually(t, "the loss", func() bool { return client.StatusCode() == gipc.ReConnecting })
					}
					err := Do(t, "Close", client.Close)
					if how == "lost" || how == "closed" {
						WantErr(t, "Close", err, gipc.ErrUnconfirmed)
					} else {
						WantErr(t, "Close", err)
					}
				})
			})
		}
	}
}

// TestCloseCrossesClose: both sides close at once. Close is nil if the peer
// acknowledges, and ErrUnconfirmed if it does not.
func TestCloseCrossesClose(t *testing.T) {
	t.Parallel()
	for _, acknowledged := range []bool{true, false} {
		t.Run(fmt.Sprintf("acknowledged %v", acknowledged), func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				client, peer := startPlainClient(t, ListenRaw(t, 1, PipePair))
				Must(t, client.Queue(1, Payload(1, 100)))
				closed := Go(client.Close)
				synctest.Wait() // it writes, and the peer has not read yet
				peer.SendClose()
				finish := peer.FinishWithoutAck
				if acknowledged {
					finish = peer.Finish
				}
				ending := finish()
				err := Await(t, "Close", closed)
				if acknowledged {
					WantErr(t, "Close", err)
				} else {
					WantErr(t, "Close", err, gipc.ErrUnconfirmed)
				}
				if e := Await(t, "the end", ending); len(e.Frames) != 1 {
					t.Errorf("%d messages arrived, want 1", len(e.Frames))
				}
			})
		})
	}
}

// TestServerCloseReportsEarlierLosses: the same for a server of one client.
func TestServerCloseReportsEarlierLosses(t *testing.T) {
	t.Parallel()
	for _, read := range []bool{false, true} {
		t.Run(fmt.Sprintf("reader %v", read), func(t *testing.T) {
			t.Parallel()
			Bubble(t, func(t *testing.T) {
				network := &PipeNetwork{}
				server := startServer(t, &gipc.ServerConfig{Name: "test", Encryption: gipc.EncryptionOff, Heartbeat: -1, Listener: network.Listen()})
				first := dialRaw(t, network)
				waitConnected(t, server)
				frame := Go(func() error { _, err := first.ReadFrame(); return err })
				Must(t, Do(t, "Write", func() error { return server.Write(1, Payload(1, 100)) }))
				Must(t, Await(t, "the frame", frame))
				loseConnection(t, server, first)
				synctest.Wait()
				ending := dialRaw(t, network).Finish()
				waitConnected(t, server)
				if read {
					wantStatus(t, server, gipc.Disconnected)
				}
				err := Do(t, "Close", server.Close)
				if read {
					WantErr(t, "Close", err)
				} else {
					WantErr(t, "Close", err, gipc.ErrUnconfirmed)
				}
				Await(t, "the end", ending)
			})
		})
	}
}
