package llmd

import (
	"testing"

	"kvtier.test/llmd/harness"
)

func TestOfTwoNodesTheOneWithTheLongerPrefixWins(t *testing.T) {
	scene := newScene(t, shared)
	near, far := scene.node(nil), scene.node(nil)
	near.Start()
	far.Start()
	short := harness.Sequence{First: prompt.First, Count: 128}
	nearEngine, farEngine := attach(near, pod), attach(far, otherPod)
	nearEngine.Store(short)
	farEngine.Store(prompt)
	nearEngine.Settle()
	farEngine.Settle()
	scene.holds(pod, short, map[string]int{"cpu": 8, "storage": 8})
	scene.holds(otherPod, prompt, inBoth)
	answers := scene.router.Ask("m", prompt.Tokens(), nil)
	if answers[pod].Whole() >= answers[otherPod].Whole() {
		t.Errorf("%+v", answers)
	}
	// Even from NVMe it is worth more.
	flood(farEngine)
	scene.holds(otherPod, prompt, onNVMe)
	answers = scene.router.Ask("m", prompt.Tokens(), nil)
	if answers[pod].Whole() >= answers[otherPod].Whole() {
		t.Errorf("%+v", answers)
	}
}

func TestBlocksOfAnAdapterAreFoundUnderItsName(t *testing.T) {
	scene := newScene(t, shared)
	node := scene.node(nil)
	node.Start()
	engine := attach(node, pod)
	adapted := prompt
	adapted.Lora = "sql-adapter"
	engine.Store(adapted)
	engine.Settle()
	harness.Eventually(t, "the adapter's blocks are found", func() string {
		if got := scene.router.Ask("sql-adapter", prompt.Tokens(), nil)[pod]; got.Tiers["storage"] != 16 {
			return text(got)
		}
		return ""
	})
	if got := scene.router.Ask("m", prompt.Tokens(), nil); len(got) > 0 {
		t.Errorf("without the adapter: %+v", got)
	}
	engine.Store(prompt)
	scene.holds(pod, prompt, inBoth)
	scene.isWhole()
}

func TestABlockIsAsManyOfTheRoutersAsItHasTokensFor(t *testing.T) {
	scene := newScene(t, shared)
	node := scene.node(nil)
	node.Start()
	engine := attach(node, pod)
	// Two whole blocks of 64 tokens, and 40 tokens that are none.
	engine.Store(harness.Sequence{First: prompt.First, Count: 168})
	engine.Settle()
	scene.holds(pod, prompt, map[string]int{"cpu": 8, "storage": 8})
	scene.holds(pod, harness.Sequence{First: prompt.First, Count: 100}, map[string]int{"cpu": 6, "storage": 6})
	// What follows later is linked to what was told before.
	engine.Store(prompt)
	engine.Settle()
	scene.holds(pod, prompt, inBoth)
	scene.isWhole()
}

func TestOnlyTheGroupOfFullAttentionIsIndexed(t *testing.T) {
	scene := newScene(t, shared)
	node := scene.node(nil)
	node.Start()
	engine := node.Attach(harness.EngineOptions{Model: "m", Pod: pod, Windows: []uint32{128, 0}})
	engine.Store(prompt)
	engine.Settle()
	scene.holds(pod, prompt, inBoth)
	for _, copy := range scene.router.Copies("m", prompt.Tokens()) {
		if copy.Group != 1 {
			t.Errorf("%+v, want group 1", copy)
		}
	}
	engine.Detach()
	scene.holds(pod, prompt, nil)
}

func TestATierThatTheRouterDoesNotKnowCountsAsMuchAsGPUMemory(t *testing.T) {
	scene := newScene(t, shared)
	node := scene.node(map[string]string{"events.nvme-medium": "Tape"})
	node.Start()
	engine := attach(node, pod)
	engine.Store(prompt)
	engine.Settle()
	scene.holds(pod, prompt, map[string]int{"cpu": 16, "tape": 16})
	if got := scene.router.Ask("m", prompt.Tokens(), nil)[pod]; got.Whole() != 16 {
		t.Errorf("score %v, want 16: name tiers as the router's weights do", got.Score)
	}
}

func TestWhatWasMissedIsReplayed(t *testing.T) {
	scene := newScene(t, dialled)
	way := harness.Between(t, scene.endpoint)
	scene.router.Stop()
	node := scene.node(nil)
	node.Start()
	engine := attach(node, pod)
	direct := scene.endpoint
	scene.endpoint = way.Endpoint
	scene.listen(scene.router)
	scene.endpoint = direct
	engine.Store(harness.Sequence{First: prompt.First, Count: 64})
	engine.Settle()
	scene.holds(pod, prompt, map[string]int{"cpu": 4, "storage": 4})

	way.Lose(1)
	harness.Eventually(t, "a message is lost", func() string {
		engine.Store(prompt)
		if way.Losing() > 0 {
			return "none yet"
		}
		return ""
	})
	engine.Settle()
	// Whatever comes next shows the gap.
	engine.Store(harness.Sequence{First: 5000, Count: 64})
	scene.holds(pod, prompt, inBoth)
	if got := scene.router.Counters(); got.Gaps == 0 || got.Resets > 0 {
		t.Errorf("%+v, want a gap that was filled", got)
	}
}
