package llmd

import (
	"fmt"
	"os"
	"testing"

	"kvtier.test/llmd/harness"
	"kvtier.test/llmd/wire"
)

// The endpoint picker's program, which no package registry has: whoever has one names it.
const pickerVariable = "KVTIER_LLMD_EPP"

func pickerProgram(t *testing.T) string {
	t.Helper()
	program := os.Getenv(pickerVariable)
	if program == "" {
		t.Skipf("SKIPPED: %s does not name an endpoint picker of llm-d-router v0.10.0", pickerVariable)
	}
	return program
}

// The pod that a prompt goes to, once the picker says the wanted one.
func routesTo(t *testing.T, picker *harness.Picker, model string, tokens []uint32, want harness.Pod) {
	t.Helper()
	harness.Eventually(t, "the prompt goes to "+want.Name, func() string {
		got, err := picker.Pick(model, tokens)
		if err != nil {
			return err.Error()
		}
		if got != want.Endpoint() {
			return fmt.Sprintf("it goes to %s, want %s", got, want.Endpoint())
		}
		return ""
	})
}

func TestThePickerRoutesByWhatIsPublishedToItsSharedSocket(t *testing.T) {
	program := pickerProgram(t)
	pods := []harness.Pod{harness.ServePod(t, "one", "127.0.0.1"), harness.ServePod(t, "two", "127.0.0.1")}
	endpoint := harness.Endpoint(t)
	picker := harness.StartPicker(t, program, pods,
		fmt.Sprintf(`{zmqEndpoint: %q, topicFilter: "kv@", concurrency: 2, discoverPods: false}`, endpoint))
	first := harness.Connect(t, endpoint, pods[0].Endpoint(), "m")
	second := harness.Connect(t, endpoint, pods[1].Endpoint(), "m")

	chain := chainOf(4, "storage")
	harness.Eventually(t, "the prompt goes to the longer prefix", func() string {
		// Whoever has just connected may speak before it is heard.
		first.Send(append(harness.Again(chain[0]), harness.Again(chain[1])...)...)
		second.Send(harness.Again(chain[0])...)
		got, err := picker.Pick("m", sequence(1000, 256))
		if err != nil || got != pods[0].Endpoint() {
			return fmt.Sprint(got, err)
		}
		return ""
	})
	harness.Eventually(t, "the prompt goes to the prefix that is longer now", func() string {
		// That the first one was heard does not say that the second one is.
		for _, event := range chain {
			second.Send(harness.Again(event)...)
		}
		got, err := picker.Pick("m", sequence(1000, 256))
		if err != nil || got != pods[1].Endpoint() {
			return fmt.Sprint(got, err)
		}
		return ""
	})
}

func TestThePickerDialsPodsAndIsReplayedWhatTheySaidBefore(t *testing.T) {
	program := pickerProgram(t)
	pods := []harness.Pod{harness.ServePod(t, "one", "127.0.0.2"), harness.ServePod(t, "two", "127.0.0.3")}
	live, replay := harness.FreePort(t, "127.0.0.1"), harness.FreePort(t, "127.0.0.1")
	chain := chainOf(4, "storage")
	var publishers []*harness.Publisher
	for index, pod := range pods {
		at := func(port int) string { return fmt.Sprintf("tcp://%s:%d", pod.Address, port) }
		publisher := harness.Bind(t, at(live), at(replay), "some other name", "m")
		publisher.Send(chain[:1+index]...)
		publishers = append(publishers, publisher)
	}
	picker := harness.StartPicker(t, program, pods, dialling(live, replay))
	routesTo(t, picker, "m", sequence(1000, 256), pods[1])
	harness.Eventually(t, "the prompt goes to the longer prefix", func() string {
		publishers[0].Send(chain...)
		got, err := picker.Pick("m", sequence(1000, 256))
		if err != nil || got != pods[0].Endpoint() {
			return fmt.Sprint(got, err)
		}
		return ""
	})
}

func TestThePickerRoutesAPromptToTheNodeThatHasItsPrefixOnNVMe(t *testing.T) {
	program := pickerProgram(t)
	pods := []harness.Pod{harness.ServePod(t, "one", "127.0.0.2"), harness.ServePod(t, "two", "127.0.0.3")}
	for _, how := range modes {
		t.Run(string(how), func(t *testing.T) {
			endpoint := harness.Endpoint(t)
			live, replay := harness.FreePort(t, "127.0.0.1"), harness.FreePort(t, "127.0.0.1")
			events := fmt.Sprintf(`{zmqEndpoint: %q, topicFilter: "kv@", discoverPods: false, concurrency: 2}`, endpoint)
			if how == dialled {
				events = dialling(live, replay)
			}
			var engines []*harness.Engine
			for _, pod := range pods {
				settings := map[string]string{"events.connect": endpoint}
				if how == dialled {
					at := func(port int) string { return fmt.Sprintf("tcp://%s:%d", pod.Address, port) }
					settings = map[string]string{"events.bind": at(live), "events.replay": at(replay)}
				}
				node := harness.NewNode(t, settings)
				node.Start()
				engines = append(engines, attach(node, pod.Endpoint()))
			}
			picker := harness.StartPicker(t, program, pods, events)

			// One node has half of the prompt in memory, the other one all of it, on NVMe alone.
			engines[0].Store(harness.Sequence{First: prompt.First, Count: 128})
			engines[1].Store(prompt)
			engines[1].Settle()
			routesTo(t, picker, "m", prompt.Tokens(), pods[1])
			flood(engines[1])
			if got := engines[1].Load(harness.Sequence{First: prompt.First + 1, Count: 64}); got.HitTokens != 0 {
				t.Errorf("another prompt: %+v", got)
			}
			routesTo(t, picker, "m", prompt.Tokens(), pods[1])
			// What only the first one has goes there, and an engine that dies is not asked again.
			other := harness.Sequence{First: 77_000, Count: 256}
			engines[0].Store(other)
			routesTo(t, picker, "m", other.Tokens(), pods[0])
			engines[1].Kill()
			routesTo(t, picker, "m", prompt.Tokens(), pods[0])
		})
	}
}

func dialling(live, replay int) string {
	return fmt.Sprintf(`{topicFilter: "kv@", concurrency: 2, discoverPods: true,`+
		` podDiscoveryConfig: {socketPort: %d, replaySocketPort: %d}}`, live, replay)
}

// chainOf is a sequence of blocks of 64 tokens: 1000, 1001, and so on.
func chainOf(blocks int, medium string) []wire.Event {
	var events []wire.Event
	for place := range blocks {
		event := wire.Event{
			Type: wire.Stored, Hashes: []wire.Hash{hashOf(byte(place + 1))}, Tokens: sequence(1000+uint32(64*place), 64),
			BlockSize: 64, Medium: &medium,
		}
		if place > 0 {
			event.Parent = hashOf(byte(place))
		}
		events = append(events, event)
	}
	return events
}
