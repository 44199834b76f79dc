package llmd

import (
	"fmt"
	"testing"
	"time"

	"kvtier.test/llmd/harness"
)

// holds waits until a pod has so many of the router's blocks of a sequence, from its first on, on these tiers and no
// others. meanwhile is done before each look.
func holds(
	t *testing.T, router router, pod string, tokens []uint32, want map[string]int, meanwhile ...func(),
) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("%s has %v", pod, want), func() string {
		for _, act := range meanwhile {
			act()
		}
		got := router.Ask("m", tokens, nil)[pod]
		if len(got.Tiers) == len(want) {
			same := true
			for tier, blocks := range want {
				same = same && got.Tiers[tier] == blocks
			}
			if same {
				return ""
			}
		}
		return fmt.Sprintf("it has %v; %+v", got.Tiers, router.Counters())
	})
}

func TestASharedSocketTakesWhatIsPublishedToIt(t *testing.T) {
	endpoint := harness.Endpoint(t)
	router := newRouter(t)
	router.Listen(endpoint)
	chain := chainOf(2, "cpu")
	one, two := harness.Connect(t, endpoint, "one", "m"), harness.Connect(t, endpoint, "two", "m")
	tokens := sequence(1000, 128)
	holds(t, router, "one", tokens, map[string]int{"cpu": 8}, func() {
		one.Send(append(harness.Again(chain[0]), harness.Again(chain[1])...)...)
	})
	holds(t, router, "two", tokens, map[string]int{"cpu": 4}, func() { two.Send(harness.Again(chain[0])...) })
	if got := router.Outstanding("one"); got != 2 {
		t.Errorf("%d stores of the first are outstanding, want 2 whatever was said again", got)
	}
}

func TestADialledPodIsReplayedFromItsFirstMessageOn(t *testing.T) {
	endpoint, replay := harness.Endpoint(t), harness.Endpoint(t)
	publisher := harness.Bind(t, endpoint, replay, "it says another name", "m")
	chain := chainOf(3, "cpu")
	publisher.Send(chain[0])
	publisher.Send(chain[1])
	router := newRouter(t)
	router.Dial("10.0.0.1:8000", endpoint, replay)
	holds(t, router, "10.0.0.1:8000", sequence(1000, 192), map[string]int{"cpu": 8})
}

// Whose messages are asked for cannot be told of two routers behind one address, so the replay fails, and a router whose
// replay fails takes nothing for a while unless it is a number 0.
func TestTwoRoutersBehindOneAddressAreToldEverythingAgainWhenOneHasMissedSomething(t *testing.T) {
	scene := newScene(t, dialled)
	node := scene.node(nil)
	node.Start()
	engine := attach(node, pod)
	engine.Store(prompt)
	engine.Settle()
	scene.holds(pod, prompt, inBoth)
	way := harness.Between(t, scene.endpoint)
	other := newPatientRouter(t, time.Hour)
	other.Dial(pod, way.Endpoint, scene.replay)
	holds(t, other, pod, prompt.Tokens(), inBoth)
	for round := range uint32(2) {
		more := harness.Sequence{First: 500_000 + 1000*round, Count: 256}
		way.Lose(1)
		engine.Store(more)
		// Only a message after the lost one shows that one is missing.
		harness.Eventually(t, "a message is lost", func() string {
			if way.Losing() > 0 {
				return "none yet"
			}
			return ""
		})
		engine.Store(harness.Sequence{First: 600_000 + 1000*round, Count: 256})
		for _, router := range []router{scene.router, other} {
			holds(t, router, pod, prompt.Tokens(), inBoth)
			holds(t, router, pod, more.Tokens(), inBoth)
		}
	}
	if other.Counters().Gaps == 0 {
		t.Error("no gap was seen")
	}
}

func TestAMissedMessageIsReplayedWhenTheNextOneComes(t *testing.T) {
	endpoint, replay := harness.Endpoint(t), harness.Endpoint(t)
	publisher := harness.Bind(t, endpoint, replay, "pod", "m")
	chain := chainOf(3, "cpu")
	publisher.Send(chain[0])
	way := harness.Between(t, endpoint)
	router := newRouter(t)
	router.Dial("pod", way.Endpoint, replay)
	tokens := sequence(1000, 192)
	holds(t, router, "pod", tokens, map[string]int{"cpu": 4})
	// Once it hears live messages, a gap between two of them shows.
	before := router.Counters().Batches
	harness.Eventually(t, "a live message is heard", func() string {
		publisher.Send()
		if router.Counters().Batches == before {
			return "none"
		}
		return ""
	})
	way.Lose(1)
	publisher.Send(chain[1])
	publisher.Send(chain[2])
	holds(t, router, "pod", tokens, map[string]int{"cpu": 12})
	if router.Counters().Gaps == 0 {
		t.Error("no gap was seen")
	}
	if got := router.Outstanding("pod"); got != 3 {
		t.Errorf("%d stores are outstanding, want 3", got)
	}
}
