// Peers that call procedures: gRPC, containerd/ttrpc and net/rpc. The message is
// a protobuf BytesValue, or gob's []byte.

package main

import (
	"context"
	"net"
	"net/rpc"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const service = "bench.Bench"

// A messenger is a stream of either kind.
type messenger interface {
	SendMsg(any) error
	RecvMsg(any) error
}

// messageTalker talks over a stream.
type messageTalker struct{ messenger }

func (t messageTalker) send(data []byte) error { return t.SendMsg(wrapperspb.Bytes(data)) }
func (t messageTalker) flush() error           { return nil }

func (t messageTalker) recv() ([]byte, error) {
	m := new(wrapperspb.BytesValue)
	err := t.RecvMsg(m)
	return m.Value, err
}

// callTalker makes a call when it sends; the answer waits for recv.
type callTalker struct {
	call   func(data []byte) ([]byte, error) // safe for concurrent use
	answer []byte
}

func (t *callTalker) send(data []byte) (err error) {
	t.answer, err = t.call(data)
	return err
}

func (t *callTalker) flush() error          { return nil }
func (t *callTalker) recv() ([]byte, error) { return t.answer, nil }

// takeCall answers a call. All come from one client; several may come at once.
func takeCall(r *lockedReceiver, decode func(any) error) (any, error) {
	m := new(wrapperspb.BytesValue)
	if err := decode(m); err != nil {
		return nil, err
	}
	return wrapperspb.Bytes(r.take(m.Value)), nil
}

func serveGRPC(_ contestant, path string, ready func()) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	var r lockedReceiver
	s := grpc.NewServer(grpc.MaxRecvMsgSize(1<<30), grpc.MaxSendMsgSize(1<<30))
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: service, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Call", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			return takeCall(&r, decode)
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Stream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			converse(messageTalker{stream})
			return nil
		}}},
	}, nil)
	ready()
	return s.Serve(l)
}

func grpcClient(path string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
}

func dialGRPCStream(_ contestant, path string) (talker, error) {
	client, err := grpcClient(path)
	if err != nil {
		return nil, err
	}
	stream, err := client.NewStream(background, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+service+"/Stream")
	return messageTalker{stream}, err
}

func dialGRPCUnary(_ contestant, path string) (talker, error) {
	client, err := grpcClient(path)
	if err != nil {
		return nil, err
	}
	return &callTalker{call: func(data []byte) ([]byte, error) {
		m := new(wrapperspb.BytesValue)
		err := client.Invoke(background, "/"+service+"/Call", wrapperspb.Bytes(data), m)
		return m.Value, err
	}}, nil
}

func serveTTRPC(_ contestant, path string, ready func()) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	s, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	var r lockedReceiver
	s.RegisterService(service, &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{"Call": func(_ context.Context, decode func(any) error) (any, error) { return takeCall(&r, decode) }},
		Streams: map[string]ttrpc.Stream{"Stream": {StreamingClient: true, StreamingServer: true, Handler: func(_ context.Context, stream ttrpc.StreamServer) (any, error) {
			converse(messageTalker{stream})
			return nil, nil
		}}},
	})
	ready()
	return s.Serve(background, l)
}

func dialTTRPC(_ contestant, path string) (talker, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	client := ttrpc.NewClient(conn)
	return &callTalker{call: func(data []byte) ([]byte, error) {
		m := new(wrapperspb.BytesValue)
		err := client.Call(background, service, "Call", wrapperspb.Bytes(data), m)
		return m.Value, err
	}}, nil
}

func dialTTRPCStream(_ contestant, path string) (talker, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	stream, err := ttrpc.NewClient(conn).NewStream(background, &ttrpc.StreamDesc{StreamingClient: true, StreamingServer: true}, service, "Stream", nil)
	return messageTalker{stream}, err
}

// netRPC is the service of one connection.
type netRPC struct{ r lockedReceiver }

// Call is the method that net/rpc finds.
func (s *netRPC) Call(data []byte, answer *[]byte) error {
	*answer = s.r.take(data)
	return nil
}

func serveNetRPC(_ contestant, path string, ready func()) error {
	return accept(path, ready, func(conn net.Conn) {
		s := rpc.NewServer()
		if err := s.RegisterName("Bench", new(netRPC)); err == nil {
			s.ServeConn(conn)
		}
	})
}

func dialNetRPC(_ contestant, path string) (talker, error) {
	client, err := rpc.Dial("unix", path)
	return &callTalker{call: func(data []byte) (answer []byte, err error) {
		err = client.Call("Bench.Call", data, &answer)
		return answer, err
	}}, err
}
