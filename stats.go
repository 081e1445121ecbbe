// Totals of an endpoint.

package gipc

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
