package harness

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
)

// Proxy is a way to a publisher on which messages can be lost, as on one whose queues overflow.
type Proxy struct {
	// Endpoint is its near end.
	Endpoint string
	lose     atomic.Int64
}

// ZMTP: a greeting of 64 octets, then frames: flags, a length of one or eight octets, the body.
const (
	greetingOctets = 64
	frameMore      = 1
	frameLong      = 2
	frameCommand   = 4
)

// Between listens in front of a publisher's endpoint.
func Between(t testing.TB, publisher string) *Proxy {
	t.Helper()
	proxy := &Proxy{Endpoint: Endpoint(t)}
	listener, err := net.Listen("tcp", strings.TrimPrefix(proxy.Endpoint, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", strings.TrimPrefix(publisher, "tcp://"))
			if err != nil {
				near.Close()
				continue
			}
			go proxy.join(near, far, func() error { _, err := io.Copy(far, near); return err })
			go proxy.join(near, far, func() error { return proxy.forward(near, far) })
		}
	}()
	return proxy
}

// Lose loses the next so many messages.
func (proxy *Proxy) Lose(messages int) { proxy.lose.Add(int64(messages)) }

// Losing is how many of them are still to come.
func (proxy *Proxy) Losing() int { return int(proxy.lose.Load()) }

func (proxy *Proxy) join(near, far net.Conn, copying func() error) {
	// However one direction ends, the other one ends with it.
	_ = copying()
	near.Close()
	far.Close()
}

func (proxy *Proxy) forward(near io.Writer, far io.Reader) error {
	if _, err := io.CopyN(near, far, greetingOctets); err != nil {
		return err
	}
	for {
		message, isCommand, err := readMessage(far)
		if err != nil {
			return err
		}
		if !isCommand && proxy.lose.Load() > 0 {
			proxy.lose.Add(-1)
			continue
		}
		if _, err := near.Write(message); err != nil {
			return err
		}
	}
}

// readMessage reads frames until one that none follows.
func readMessage(from io.Reader) (message []byte, isCommand bool, err error) {
	for {
		head := make([]byte, 9)
		if _, err := io.ReadFull(from, head[:2]); err != nil {
			return nil, false, err
		}
		length, octets := uint64(head[1]), 2
		if head[0]&frameLong != 0 {
			if _, err := io.ReadFull(from, head[2:]); err != nil {
				return nil, false, err
			}
			length, octets = binary.BigEndian.Uint64(head[1:]), 9
		}
		if length > 1<<30 {
			return nil, false, errors.New("a frame of more than 1 GiB")
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(from, body); err != nil {
			return nil, false, err
		}
		message = append(append(message, head[:octets]...), body...)
		if head[0]&frameMore == 0 {
			return message, head[0]&frameCommand != 0, nil
		}
	}
}
