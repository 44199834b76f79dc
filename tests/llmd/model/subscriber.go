package model

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/go-zeromq/zmq4"
)

// How long the router waits: after a socket was lost, for each frame of a replay, after a replay failed, and how often
// it asks again without getting anywhere. Its own numbers; a subscriber may be given shorter ones.
type Delays struct {
	Retry, ReplayIdle, ReplayCooldown time.Duration
	Attempts                          int
}

// RouterDelays are those of v0.10.0.
func RouterDelays() Delays {
	return Delays{Retry: 5 * time.Second, ReplayIdle: 2 * time.Second, ReplayCooldown: 30 * time.Second, Attempts: 3}
}

// Filter is what the router subscribes to.
const Filter = "kv@"

// Subscriber is one socket of a router.
type Subscriber struct {
	index *Index
	// Source is the endpoint of the pod that is dialled: who all its events are about. Empty: the shared socket, where
	// topics say it.
	source           string
	endpoint, replay string
	dials            bool
	delays           Delays

	cancel context.CancelFunc
	ended  sync.WaitGroup

	// The last message taken in, and the last one seen at all.
	last, live       uint64
	hasLast, hasLive bool
	failed           time.Time
}

// Listen opens the shared socket of an index: it binds, publishers connect.
func Listen(index *Index, endpoint string, delays Delays) *Subscriber {
	return start(&Subscriber{index: index, endpoint: endpoint, delays: delays})
}

// Dial connects to one pod's publisher, and asks replay (which may be empty) for what was missed.
func Dial(index *Index, pod, endpoint, replay string, delays Delays) *Subscriber {
	return start(&Subscriber{index: index, source: pod, endpoint: endpoint, replay: replay, dials: true, delays: delays})
}

func start(subscriber *Subscriber) *Subscriber {
	ctx, cancel := context.WithCancel(context.Background())
	subscriber.cancel = cancel
	subscriber.ended.Go(func() {
		for ctx.Err() == nil {
			subscriber.run(ctx)
			select {
			case <-time.After(subscriber.delays.Retry):
			case <-ctx.Done():
			}
		}
	})
	return subscriber
}

// Stop closes the socket and waits until nothing more is taken in.
func (subscriber *Subscriber) Stop() {
	subscriber.cancel()
	subscriber.ended.Wait()
}

// run is the life of one socket. Any connection that ends, ends it: of the shared one, for everybody.
func (subscriber *Subscriber) run(ctx context.Context) {
	socket := zmq4.NewSub(ctx)
	defer socket.Close()
	open := socket.Listen
	if subscriber.dials {
		open = socket.Dial
	}
	if open(subscriber.endpoint) != nil || socket.SetOption(zmq4.OptionSubscribe, Filter) != nil {
		return
	}
	if subscriber.replay != "" && !subscriber.hasLast && subscriber.mayReplay() {
		subscriber.ask(ctx, 0)
	}
	for {
		message, err := socket.Recv()
		if err != nil {
			return
		}
		if topic, sequence, payload, ok := frames(message.Frames); ok {
			subscriber.hear(ctx, topic, sequence, payload)
		}
	}
}

func frames(parts [][]byte) (topic string, sequence uint64, payload []byte, ok bool) {
	if len(parts) != 3 || len(parts[1]) < 8 {
		return "", 0, nil, false
	}
	return string(parts[0]), binary.BigEndian.Uint64(parts[1]), parts[2], true
}

func (subscriber *Subscriber) take(topic string, payload []byte) {
	// What is refused shows in the index's counters.
	_ = subscriber.index.Ingest(topic, subscriber.source, payload)
}

func (subscriber *Subscriber) mayReplay() bool {
	return subscriber.failed.IsZero() || time.Since(subscriber.failed) >= subscriber.delays.ReplayCooldown
}

// hear takes in a live message. Without a replay socket every one; with one, only what follows without a gap. Numbers
// are of the socket, whatever their topics.
func (subscriber *Subscriber) hear(ctx context.Context, topic string, sequence uint64, payload []byte) {
	if subscriber.replay == "" {
		subscriber.take(topic, payload)
		return
	}
	asked := false
	if subscriber.hasLive && sequence < subscriber.live {
		subscriber.index.Reset(subscriber.source)
		subscriber.hasLast, subscriber.failed, asked = false, time.Time{}, true
		subscriber.ask(ctx, 0)
	}
	if subscriber.hasLive && sequence == subscriber.live {
		return
	}
	subscriber.live, subscriber.hasLive = sequence, true
	if !subscriber.hasLast && sequence > 0 {
		if asked || !subscriber.mayReplay() || !subscriber.ask(ctx, 0) {
			return
		}
	} else if subscriber.hasLast && sequence > subscriber.last+1 {
		subscriber.index.count(func(counters *Counters) { counters.Gaps++ })
		if !subscriber.mayReplay() || !subscriber.ask(ctx, subscriber.last+1) {
			return
		}
	}
	if subscriber.hasLast && sequence != subscriber.last+1 {
		return
	}
	subscriber.take(topic, payload)
	subscriber.last, subscriber.hasLast = sequence, true
}

var errIncomplete = errors.New("the replay has a gap")

// ask replays from a number on. Whether it came to its end; if not, all that is known of the pod is given up.
func (subscriber *Subscriber) ask(ctx context.Context, from uint64) bool {
	next := from
	for attempt := 0; attempt < subscriber.delays.Attempts && ctx.Err() == nil; attempt++ {
		before := next
		ended, err := subscriber.attempt(ctx, &next)
		if errors.Is(err, errIncomplete) || (ended && next == from && from > 0) {
			break
		}
		if ended {
			subscriber.failed = time.Time{}
			subscriber.index.count(func(counters *Counters) { counters.Replays++ })
			return true
		}
		if next > before {
			attempt = -1
		}
	}
	subscriber.index.Reset(subscriber.source)
	subscriber.hasLast, subscriber.failed = false, time.Now()
	return false
}

func (subscriber *Subscriber) attempt(ctx context.Context, next *uint64) (ended bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	socket := zmq4.NewDealer(ctx, zmq4.WithTimeout(subscriber.delays.ReplayIdle))
	defer socket.Close()
	if err := socket.Dial(subscriber.replay); err != nil {
		return false, err
	}
	request := binary.BigEndian.AppendUint64(nil, *next)
	if err := socket.SendMulti(zmq4.NewMsgFrom([]byte{}, request)); err != nil {
		return false, err
	}
	idle := time.AfterFunc(subscriber.delays.ReplayIdle, cancel)
	defer idle.Stop()
	for {
		message, err := socket.Recv()
		if err != nil {
			return false, err
		}
		idle.Reset(subscriber.delays.ReplayIdle)
		parts := message.Frames
		if len(parts) > 0 && len(parts[0]) == 0 {
			parts = parts[1:]
		}
		if len(parts) == 3 && len(parts[2]) == 0 {
			return true, nil
		}
		topic, sequence, payload, ok := frames(parts)
		if !ok || sequence != *next {
			return false, errIncomplete
		}
		subscriber.take(topic, payload)
		subscriber.last, subscriber.hasLast = sequence, true
		*next++
	}
}
