package harness

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"kvtier.test/llmd/model"
)

// Router is llm-d's router as far as block events go, in a process (`kvt-router`, made of the router's own packages).
type Router struct{ *talker }

// StartRouter runs the program with an empty index.
func StartRouter(t testing.TB, program string, weights map[string]float64) *Router {
	t.Helper()
	tiers, err := json.Marshal(weights)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "-weights", string(tiers))
	return &Router{startTalker(t, filepath.Join(t.TempDir(), "log"), command)}
}

// Listen opens the shared socket.
func (router *Router) Listen(endpoint string) {
	router.t.Helper()
	router.ask(map[string]any{"do": "listen", "endpoint": endpoint}, nil)
}

// Dial connects to one pod's publisher.
func (router *Router) Dial(pod, endpoint, replay string) {
	router.t.Helper()
	router.ask(map[string]any{"do": "dial", "pod": pod, "endpoint": endpoint, "replay": replay}, nil)
}

// Stop closes its socket; its index stays.
func (router *Router) Stop() { router.t.Helper(); router.ask(map[string]any{"do": "stop"}, nil) }

// Ingest takes a message in that came over no socket.
func (router *Router) Ingest(topic, source string, payload []byte) {
	router.t.Helper()
	router.ask(map[string]any{"do": "ingest", "topic": topic, "source": source, "payload": payload}, nil)
}

// Ask answers for every pod that has the first block.
func (router *Router) Ask(adapter string, tokens []uint32, features [][]string) map[string]model.Answer {
	router.t.Helper()
	answers := map[string]model.Answer{}
	router.ask(map[string]any{"do": "ask", "model": adapter, "tokens": tokens, "features": features}, &answers)
	return answers
}

// Copies lists who has the last block of tokens, in order.
func (router *Router) Copies(adapter string, tokens []uint32) []model.Entry {
	router.t.Helper()
	var entries []model.Entry
	router.ask(map[string]any{"do": "copies", "model": adapter, "tokens": tokens}, &entries)
	return entries
}

// Counters are those of now.
func (router *Router) Counters() model.Counters {
	router.t.Helper()
	var counters model.Counters
	router.ask(map[string]any{"do": "counters"}, &counters)
	return counters
}

// Outstanding is the number of a pod's stores that no removal has answered.
func (router *Router) Outstanding(pod string) int {
	router.t.Helper()
	var count int
	router.ask(map[string]any{"do": "outstanding", "pod": pod}, &count)
	return count
}
