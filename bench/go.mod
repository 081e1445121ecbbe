module example.com/gipc/bench

go 1.26.0

require (
	example.com/gipc v0.0.0
	github.com/coder/websocket v1.8.15
	github.com/containerd/ttrpc v1.2.10
	github.com/go-zeromq/zmq4 v0.17.0
	github.com/hashicorp/yamux v0.1.2
	github.com/pebbe/zmq4 v1.4.0
	golang.org/x/sys v0.48.0
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/containerd/log v0.1.0 // indirect
	github.com/go-zeromq/goczmq/v4 v4.2.2 // indirect
	github.com/sirupsen/logrus v1.9.4 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sync v0.23.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
)

replace example.com/gipc => ../
