package harness

import (
	"context"
	"sync"
	"testing"

	"github.com/go-zeromq/zmq4"

	"kvtier.test/llmd/wire"
)

// Publisher announces by itself what a test tells it to: for tests of consumers without a daemon.
type Publisher struct {
	t        testing.TB
	socket   zmq4.Socket
	topic    string
	encoding wire.Encoding
	mutex    sync.Mutex
	next     uint64
}

// Connect publishes to a shared socket that a router has bound, about one pod.
func Connect(t testing.TB, endpoint, pod, model string) *Publisher {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	socket := zmq4.NewPub(ctx)
	publisher := &Publisher{t: t, socket: socket, topic: "kv@" + pod + "@" + model, encoding: wire.Maps}
	t.Cleanup(func() {
		cancel()
		socket.Close()
	})
	Eventually(t, "the shared socket is there", func() string {
		if err := socket.Dial(endpoint); err != nil {
			return err.Error()
		}
		return ""
	})
	return publisher
}

// Send publishes one batch.
func (publisher *Publisher) Send(events ...wire.Event) {
	publisher.t.Helper()
	publisher.mutex.Lock()
	defer publisher.mutex.Unlock()
	payload := wire.Encode(wire.Batch{Time: 1.5, Events: events}, publisher.encoding)
	message := zmq4.NewMsgFrom([]byte(publisher.topic), wire.Sequence(publisher.next), payload)
	publisher.next++
	if err := publisher.socket.SendMulti(message); err != nil {
		publisher.t.Fatal(err)
	}
}

// Again announces a block that is there once more: removed, then stored, so that nothing is counted twice.
func Again(stored wire.Event) []wire.Event {
	return []wire.Event{{Type: wire.Removed, Hashes: stored.Hashes, Medium: stored.Medium}, stored}
}
