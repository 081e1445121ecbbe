// What an end of a connection is doing.

package gipc

// Status is what an end of a connection is doing.
type Status int

// The statuses, with the numbers and strings that earlier libraries of this kind use.
const (
	NotConnected Status = iota // before the start
	Listening                  // server: no client has come yet; of a server of many clients always
	Connecting                 // client: before the first connection
	Connected                  // messages flow
	ReConnecting               // client: the connection was lost; redialing
	Closed                     // after Close, forever
	Closing                    // Close has begun and is not done
	Error                      // server: it cannot accept any more, forever
	Timeout                    // client: no connection within Timeout, forever
	Disconnected               // server: the client is gone
)

var statusNames = [...]string{"Not Connected", "Listening", "Connecting", "Connected", "Reconnecting",
	"Closed", "Closing", "Error", "Timeout", "Disconnected"}

// String returns the status as a word. It is total: a number that is no status
// is "Unknown".
func (s Status) String() string {
	if s < 0 || int(s) >= len(statusNames) {
		return "Unknown"
	}
	return statusNames[s]
}

// transitions has, for each status, a bit for each one that may follow. An end
// changes its status nowhere but through mayBecome, so that what has ended
// stays ended whoever comes late.
var transitions = [...]uint16{
	NotConnected: 1<<Listening | 1<<Connecting | 1<<Connected | 1<<Closing,
	Listening:    1<<Connected | 1<<Closing | 1<<Error,
	Connecting:   1<<Connected | 1<<Closing | 1<<Timeout | 1<<Error,
	Connected:    1<<ReConnecting | 1<<Disconnected | 1<<Closing,
	ReConnecting: 1<<Connected | 1<<Closing | 1<<Timeout | 1<<Error,
	Closing:      1 << Closed,
	Error:        1 << Closing,
	Timeout:      1 << Closing,
	Disconnected: 1<<Connected | 1<<Closing | 1<<Error,
}

func (s Status) canTransitionTo(next Status) bool { return transitions[s]&(1<<next) != 0 }

// Security is how this library protects a connection. The zero value is plaintext, which
// an Upgrade may protect in its own way.
type Security struct {
	Encrypted bool // with AES-256-GCM
	Hybrid    bool // the keys come from P-384 and ML-KEM-1024 together, not from P-384 alone
	Secret    bool // both sides have proved that they have the same Secret
}

// Stats are the totals of an endpoint since its start, over all its connections.
type Stats struct {
	Sent, Received           uint64 // messages
	SentBytes, ReceivedBytes uint64 // their Data, in bytes
	Reconnects               uint64 // connections after the first
	Refused                  uint64 // server: peers that were not admitted, and errors of accept
	Rekeys                   uint64 // changes of a traffic key, both directions
	Calls, Requests          uint64 // requests that were sent and received; they count as messages, too, and replies do not
	Dropped                  uint64 // status messages, or clients that left, that nobody read in time; replies that nobody waited for
}

func (s *Stats) add(o Stats) {
	s.Sent += o.Sent
	s.Received += o.Received
	s.SentBytes += o.SentBytes
	s.ReceivedBytes += o.ReceivedBytes
	s.Reconnects += o.Reconnects
	s.Refused += o.Refused
	s.Rekeys += o.Rekeys
	s.Calls += o.Calls
	s.Requests += o.Requests
	s.Dropped += o.Dropped
}
