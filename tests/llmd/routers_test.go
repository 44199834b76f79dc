package llmd

import (
	"os"
	"testing"
	"time"

	"kvtier.test/llmd/harness"
	"kvtier.test/llmd/model"
)

// The program made of the router's own packages (`router`), which scripts/llmd.sh builds where those packages are to be had.
const routerVariable = "KVTIER_LLMD_ROUTER_PROGRAM"

// router is one as far as block events go: the model, or the real one. It has one socket at a time, and its index outlives
// its sockets.
type router interface {
	// Listen opens the shared socket, Dial connects to one pod's publisher. Stop closes either, and nothing is taken in
	// from then on.
	Listen(endpoint string)
	Dial(pod, endpoint, replay string)
	Stop()
	// Ingest takes in a message that came over no socket.
	Ingest(topic, source string, payload []byte)
	// Ask answers for every pod that has the first block. features are those of the router's blocks, or nil.
	Ask(adapter string, tokens []uint32, features [][]string) map[string]model.Answer
	// Copies lists who has the last block.
	Copies(adapter string, tokens []uint32) []model.Entry
	Counters() model.Counters
	// Outstanding is the number of a pod's stores that no removal has answered.
	Outstanding(pod string) int
}

// newRouter has an empty index. It is the real one where its program is named.
func newRouter(t *testing.T) router { return newPatientRouter(t, 0) }

// newPatientRouter drops live messages for so long after a failed replay. The real one's time is its own: half a minute.
func newPatientRouter(t *testing.T, cooldown time.Duration) router {
	t.Helper()
	if program := os.Getenv(routerVariable); program != "" {
		return harness.StartRouter(t, program, AcceptedWeights())
	}
	// Shorter than the router's own, so that tests do not wait; the order of things is the same.
	delays := model.Delays{
		Retry: 50 * time.Millisecond, ReplayIdle: 5 * time.Second, ReplayCooldown: 100 * time.Millisecond, Attempts: 3,
	}
	if cooldown > 0 {
		delays.ReplayCooldown = cooldown
	}
	modelled := &modelRouter{index: model.NewIndex(AcceptedWeights()), delays: delays}
	t.Cleanup(modelled.Stop)
	return modelled
}

// modelRouter is the model of a router.
type modelRouter struct {
	index      *model.Index
	delays     model.Delays
	subscriber *model.Subscriber
}

func (router *modelRouter) Listen(endpoint string) {
	router.subscriber = model.Listen(router.index, endpoint, router.delays)
}

func (router *modelRouter) Dial(pod, endpoint, replay string) {
	router.subscriber = model.Dial(router.index, pod, endpoint, replay, router.delays)
}

func (router *modelRouter) Stop() {
	if router.subscriber != nil {
		router.subscriber.Stop()
	}
	router.subscriber = nil
}

func (router *modelRouter) Ingest(topic, source string, payload []byte) {
	// A refusal shows in the counters.
	_ = router.index.Ingest(topic, source, payload)
}

func (router *modelRouter) Ask(adapter string, tokens []uint32, features [][]string) map[string]model.Answer {
	var all [][]model.Feature
	for _, texts := range features {
		var some []model.Feature
		for _, text := range texts {
			some = append(some, model.Feature{Hash: text})
		}
		all = append(all, some)
	}
	return router.index.AskKeys(model.Keys(model.RootKey("", adapter), tokens, all))
}

func (router *modelRouter) Copies(adapter string, tokens []uint32) []model.Entry {
	return router.index.Copies(adapter, tokens)
}

func (router *modelRouter) Counters() model.Counters   { return router.index.Counters() }
func (router *modelRouter) Outstanding(pod string) int { return router.index.Outstanding(pod) }
