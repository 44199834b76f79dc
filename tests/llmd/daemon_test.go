package llmd

import (
	"testing"

	"kvtier.test/llmd/harness"
)

var inMemory, onNVMe, inBoth = map[string]int{"cpu": 16}, map[string]int{"storage": 16}, map[string]int{"cpu": 16, "storage": 16}

func TestWhatIsStoredIsFoundInMemory(t *testing.T) {
	inModes(t, func(t *testing.T, scene *scene) {
		node := scene.node(map[string]string{"nvme.admission": "second-touch"})
		node.Start()
		engine := attach(node, pod)
		if got := engine.Store(prompt); got.Published != 4 {
			t.Fatalf("%+v, want 4 published", got)
		}
		scene.holds(pod, prompt, inMemory)
		if got := scene.router.Ask("m", prompt.Tokens(), nil)[pod]; got.Whole() != 12 {
			t.Errorf("score %v, want 16 blocks at 0.8, so 12 as a whole number", got.Score)
		}
		scene.isWhole()
	})
}

func TestWhatLeavesMemoryIsFoundOnNVMeAndInMemoryAgainOncePromoted(t *testing.T) {
	inModes(t, func(t *testing.T, scene *scene) {
		node := scene.node(nil)
		node.Start()
		engine := attach(node, pod)
		engine.Store(prompt)
		engine.Settle()
		scene.holds(pod, prompt, inBoth)

		flood(engine)
		scene.holds(pod, prompt, onNVMe)
		if got := scene.router.Ask("m", prompt.Tokens(), nil)[pod]; got.Whole() != 8 {
			t.Errorf("score %v, want 16 blocks at 0.5", got.Score)
		}

		if got := engine.Load(prompt); got.HitTokens != 256 {
			t.Fatalf("%+v, want a hit of 256 tokens", got)
		}
		scene.holds(pod, prompt, inBoth)
		scene.isWhole()
	})
}

func TestASecondEngineSharesWhatTheFirstHasStored(t *testing.T) {
	scene := newScene(t, shared)
	node := scene.node(nil)
	node.Start()
	first := attach(node, pod)
	first.Store(prompt)
	first.Settle()
	attach(node, otherPod)
	scene.holds(pod, prompt, inBoth)
	scene.holds(otherPod, prompt, inBoth)
	scene.isWhole()
}

func TestWhatIsAnnouncedForAnEngineThatIsKilledIsWithdrawn(t *testing.T) {
	scene := newScene(t, shared)
	node := scene.node(nil)
	node.Start()
	first, second := attach(node, pod), attach(node, otherPod)
	second.Store(prompt)
	second.Settle()
	scene.holds(pod, prompt, inBoth)
	scene.holds(otherPod, prompt, inBoth)

	second.Kill()
	scene.holds(otherPod, prompt, nil)
	scene.holds(pod, prompt, inBoth)
	if got := scene.router.Outstanding(otherPod); got != 0 {
		t.Errorf("%d stores are outstanding", got)
	}
	first.Detach()
	scene.holds(pod, prompt, nil)
}

func TestAnEngineThatIsResetIsNotFoundWithWhatItLeft(t *testing.T) {
	scene := newScene(t, shared)
	node := scene.node(nil)
	node.Start()
	engine := attach(node, pod)
	engine.Store(prompt)
	engine.Settle()
	scene.holds(pod, prompt, inBoth)
	engine.Reset()
	scene.holds(pod, prompt, nil)
	scene.isWhole()
}

// The blocks that an engine stores after a reset have the hashes of those it left, under the same name: what is withdrawn
// must not take them along.
func TestWhatIsStoredAfterAResetStays(t *testing.T) {
	scene := newScene(t, shared)
	node := scene.node(nil)
	node.Start()
	engine := attach(node, pod)
	for round := range uint32(5) {
		engine.Store(prompt)
		engine.Settle()
		scene.holds(pod, prompt, inBoth)
		engine.Reset()
		engine.Store(prompt)
		engine.Settle()
		last := harness.Sequence{First: 500_000 + 1000*round, Count: 256}
		engine.Store(last)
		engine.Settle()
		scene.holds(pod, last, inBoth)
		scene.holds(pod, prompt, inBoth)
		scene.remains(pod, prompt, inBoth)
	}
	if got := scene.router.Outstanding(pod); got != 16 {
		t.Errorf("%d stores are outstanding, want 16: two prompts of four blocks on two tiers", got)
	}
}

// A dialled socket is about one pod, whatever its topics say: another engine's end must not take away what this one has.
func TestADialledPodKeepsItsBlocksWhenAnotherEngineOfItsNodeEnds(t *testing.T) {
	scene := newScene(t, dialled)
	node := scene.node(nil)
	node.Start()
	first, second := attach(node, pod), attach(node, otherPod)
	first.Store(prompt)
	first.Settle()
	scene.holds(pod, prompt, inBoth)
	second.Detach()
	last := harness.Sequence{First: 500_000, Count: 256}
	first.Store(last)
	first.Settle()
	scene.holds(pod, last, inBoth)
	scene.remains(pod, prompt, inBoth)
	scene.router.Stop()
	scene.listen(newRouter(t))
	scene.holds(pod, prompt, inBoth)
	third := attach(node, otherPod)
	scene.holds(pod, last, inBoth)
	third.Detach()
	first.Store(harness.Sequence{First: 600_000, Count: 256})
	first.Settle()
	scene.holds(pod, harness.Sequence{First: 600_000, Count: 256}, inBoth)
	scene.remains(pod, prompt, inBoth)
}

func TestADaemonThatStopsWithdrawsWhatItHas(t *testing.T) {
	inModes(t, func(t *testing.T, scene *scene) {
		node := scene.node(nil)
		daemon := node.Start()
		engine := attach(node, pod)
		engine.Store(prompt)
		engine.Settle()
		scene.holds(pod, prompt, inBoth)
		daemon.Stop()
		scene.holds(pod, prompt, nil)
	})
}

func TestADaemonThatWasKilledAnnouncesItsNVMeAgainRootFirst(t *testing.T) {
	inModes(t, func(t *testing.T, scene *scene) {
		node := scene.node(nil)
		daemon := node.Start()
		engine := attach(node, pod)
		engine.Store(prompt)
		engine.Settle()
		scene.holds(pod, prompt, inBoth)

		daemon.Kill()
		// The router may have lost its memory as well, or not.
		old := scene.router
		node.Start()
		attach(node, pod)
		scene.holds(pod, prompt, onNVMe)
		scene.isWhole()
		scene.router.Stop()
		scene.listen(newRouter(t))
		scene.holds(pod, prompt, onNVMe)
		scene.isWhole()
		if got := old.Outstanding(pod); got != 4 {
			t.Errorf("%d stores were outstanding, want one for each block", got)
		}
	})
}

// A killed daemon takes nothing back, and nothing may be cleared under a pod's name. The next one knows what it had announced.
func TestWhatAKilledDaemonHadInMemoryIsForgottenUnderItsPodsName(t *testing.T) {
	inModes(t, func(t *testing.T, scene *scene) {
		node := scene.node(map[string]string{"nvme.admission": "second-touch"})
		daemon := node.Start()
		attach(node, pod).Store(prompt)
		scene.holds(pod, prompt, inMemory)
		daemon.Kill()
		node.Start()
		scene.holds(pod, prompt, nil)
		engine := attach(node, pod)
		engine.Store(prompt)
		scene.holds(pod, prompt, inMemory)
		scene.isWhole()
		engine.Detach()
		scene.holds(pod, prompt, nil)
		if got := scene.router.Outstanding(pod); got != 0 {
			t.Errorf("%d stores are outstanding", got)
		}
	})
}

func TestARouterThatBeginsAnewIsToldEverything(t *testing.T) {
	inModes(t, func(t *testing.T, scene *scene) {
		node := scene.node(nil)
		node.Start()
		engine := attach(node, pod)
		engine.Store(prompt)
		engine.Settle()
		scene.holds(pod, prompt, inBoth)
		for range 2 {
			scene.router.Stop()
			scene.listen(newRouter(t))
			scene.holds(pod, prompt, inBoth)
			scene.isWhole()
		}
	})
}

// A router that keeps its index counts what it is told again: were it one too many, the block would never leave.
func TestWhatIsAnnouncedAgainIsCountedOnce(t *testing.T) {
	inModes(t, func(t *testing.T, scene *scene) {
		node := scene.node(nil)
		node.Start()
		engine := attach(node, pod)
		engine.Store(prompt)
		engine.Settle()
		scene.holds(pod, prompt, inBoth)
		for range 3 {
			scene.router.Stop()
			before := scene.router.Counters().Stored
			scene.listen(scene.router)
			harness.Eventually(t, "it is told again", func() string {
				if scene.router.Counters().Stored < before+2 {
					return "it is not"
				}
				return ""
			})
			harness.Eventually(t, "each copy of a block counts once", func() string {
				if scene.router.Outstanding(pod) != 8 {
					return "it does not"
				}
				return ""
			})
		}
		engine.Detach()
		scene.holds(pod, prompt, nil)
		if got := scene.router.Outstanding(pod); got != 0 {
			t.Errorf("%d stores are outstanding", got)
		}
	})
}
