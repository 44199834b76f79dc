package llmd

import (
	"maps"
	"testing"

	"kvtier.test/llmd/harness"
)

// How a router hears of a node: it listens and daemons connect, or it dials and asks for replays.
type mode string

const (
	shared  mode = "shared socket"
	dialled mode = "dialled pod"
)

var modes = []mode{shared, dialled}

const pod, otherPod = "127.0.0.1:8000", "127.0.0.1:8001"

// prompt is one of four blocks of ours and sixteen of the router's.
var prompt = harness.Sequence{First: 1000, Count: 256}

// scene is a router, and daemons that publish to it.
type scene struct {
	t                *testing.T
	mode             mode
	endpoint, replay string
	router           router
}

func newScene(t *testing.T, how mode) *scene {
	t.Helper()
	scene := &scene{t: t, mode: how, endpoint: harness.Endpoint(t), replay: harness.Endpoint(t)}
	scene.listen(newRouter(t))
	return scene
}

// listen makes this router hear what happens from now on.
func (scene *scene) listen(router router) {
	scene.t.Helper()
	scene.router = router
	if scene.mode == shared {
		router.Listen(scene.endpoint)
	} else {
		router.Dial(pod, scene.endpoint, scene.replay)
	}
}

// node is one whose daemon publishes here: arrays to the shared socket, maps to who dials.
func (scene *scene) node(settings map[string]string) *harness.Node {
	scene.t.Helper()
	all := map[string]string{"events.connect": scene.endpoint}
	if scene.mode == dialled {
		all = map[string]string{"events.bind": scene.endpoint, "events.replay": scene.replay, "events.encoding": "map"}
	}
	maps.Copy(all, settings)
	return harness.NewNode(scene.t, all)
}

func (scene *scene) holds(pod string, sequence harness.Sequence, want map[string]int) {
	scene.t.Helper()
	holds(scene.t, scene.router, pod, sequence.Tokens(), want)
}

// remains checks what has been waited for once more, after everything that was to come has come.
func (scene *scene) remains(pod string, sequence harness.Sequence, want map[string]int) {
	scene.t.Helper()
	got := scene.router.Ask("m", sequence.Tokens(), nil)[pod].Tiers
	if !maps.Equal(got, want) {
		scene.t.Errorf("%s has %v, want %v", pod, got, want)
	}
}

// isWhole checks that nothing that was heard was refused, or told before what it follows.
func (scene *scene) isWhole() {
	scene.t.Helper()
	if counters := scene.router.Counters(); counters.Refused+counters.Orphans+counters.Skipped > 0 {
		scene.t.Errorf("refused, orphans or skipped: %+v", counters)
	}
}

// inModes runs a test in both.
func inModes(t *testing.T, test func(t *testing.T, scene *scene)) {
	t.Helper()
	for _, how := range modes {
		t.Run(string(how), func(t *testing.T) { test(t, newScene(t, how)) })
	}
}

func attach(node *harness.Node, pod string) *harness.Engine {
	return node.Attach(harness.EngineOptions{Model: "m", Pod: pod})
}

// flood stores three times as much as there is memory for.
func flood(engine *harness.Engine) {
	for round := range uint32(3 * harness.HostBlocks / 8) {
		engine.Store(harness.Sequence{First: 1_000_000 + round*10_000, Count: 8 * harness.BlockTokens})
		engine.Settle()
	}
}
