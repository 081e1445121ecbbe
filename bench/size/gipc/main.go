// A minimal server of this library: what a user's program grows by.

package main

import (
	"log"

	"example.com/gipc"
)

func main() {
	s, err := gipc.StartServer(&gipc.ServerConfig{Name: "size"})
	if err != nil {
		log.Fatal(err)
	}
	for {
		m, err := s.Read()
		if err != nil {
			log.Fatal(err)
		}
		if m.MsgType > 0 {
			s.Write(m.MsgType, m.Data)
		}
	}
}
