package harness

import (
	"context"
	"encoding/binary"
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
	// Messages that a replay gives, from the first one on.
	sent []zmq4.Msg
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
	message := publisher.keep(payload)
	if err := publisher.socket.SendMulti(message); err != nil {
		publisher.t.Fatal(err)
	}
}

func (publisher *Publisher) keep(payload []byte) zmq4.Msg {
	message := zmq4.NewMsgFrom([]byte(publisher.topic), wire.Sequence(publisher.next), payload)
	publisher.next++
	publisher.sent = append(publisher.sent, message)
	return message
}

// Bind publishes at an endpoint of its own, as an engine does, and answers replays at another one.
func Bind(t testing.TB, endpoint, replay, pod, model string) *Publisher {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	publisher := &Publisher{t: t, socket: zmq4.NewPub(ctx), topic: "kv@" + pod + "@" + model, encoding: wire.Maps}
	router := zmq4.NewRouter(ctx)
	t.Cleanup(func() {
		cancel()
		publisher.socket.Close()
		router.Close()
	})
	if err := publisher.socket.Listen(endpoint); err != nil {
		t.Fatal(err)
	}
	if err := router.Listen(replay); err != nil {
		t.Fatal(err)
	}
	go publisher.answerReplays(ctx, router)
	return publisher
}

func (publisher *Publisher) answerReplays(ctx context.Context, router zmq4.Socket) {
	for ctx.Err() == nil {
		// An error says that one of those who asked has hung up.
		request, err := router.Recv()
		if err != nil || len(request.Frames) != 3 || len(request.Frames[2]) != 8 {
			continue
		}
		from := binary.BigEndian.Uint64(request.Frames[2])
		publisher.mutex.Lock()
		sent := publisher.sent[min(from, uint64(len(publisher.sent))):]
		publisher.mutex.Unlock()
		for _, message := range sent {
			frames := append([][]byte{request.Frames[0], {}}, message.Frames...)
			_ = router.SendMulti(zmq4.NewMsgFrom(frames...))
		}
		_ = router.SendMulti(zmq4.NewMsgFrom(request.Frames[0], []byte{}, []byte{}, wire.Sequence(^uint64(0)), []byte{}))
	}
}

// Again announces a block that is there once more: removed, then stored, so that nothing is counted twice.
func Again(stored wire.Event) []wire.Event {
	return []wire.Event{{Type: wire.Removed, Hashes: stored.Hashes, Medium: stored.Medium}, stored}
}
