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
	for _, event := range chain {
		second.Send(harness.Again(event)...)
	}
	routesTo(t, picker, "m", sequence(1000, 256), pods[1])
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
