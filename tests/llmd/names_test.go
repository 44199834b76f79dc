package llmd

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"kvtier.test/llmd/harness"
)

// crowd is a node that is announced by its own name, its daemon, and the name under which a router knows it.
func (scene *scene) crowd() (*harness.Node, *harness.Process, string) {
	scene.t.Helper()
	node := scene.node(map[string]string{"events.identities": "node:n", "nvme.admission": "second-touch"})
	daemon := node.Start()
	if scene.mode == dialled {
		return node, daemon, pod
	}
	return node, daemon, "node:n"
}

// only is the namespace that is not among these.
func only(t *testing.T, node *harness.Node, known ...string) string {
	t.Helper()
	names := slices.DeleteFunc(node.Namespaces(), func(name string) bool { return slices.Contains(known, name) })
	if len(names) != 1 {
		t.Fatalf("%v, want one more than %v", names, known)
	}
	return names[0]
}

// A router takes blocks of one hash under one name for one block: what one namespace loses used to hide what another has.
func TestWhatOneNamespaceLosesAnotherStillHas(t *testing.T) {
	inModes(t, func(t *testing.T, scene *scene) {
		node, _, name := scene.crowd()
		first := node.Attach(harness.EngineOptions{Model: "m"})
		first.Store(prompt)
		one := only(t, node)
		second := node.Attach(harness.EngineOptions{Model: "m", BlockBytes: 2 * harness.BlockBytes})
		if got := second.Store(prompt); got.Published != 4 {
			t.Fatalf("%+v, want 4 published", got)
		}
		other := only(t, node, one)
		scene.holds(name, prompt, inMemory)

		node.Evict(one)
		marker := harness.Sequence{First: 500_000, Count: 256}
		second.Store(marker)
		scene.holds(name, marker, inMemory)
		scene.remains(name, prompt, inMemory)
		scene.isWhole()
		if got := scene.router.Outstanding(name); got != 8 {
			t.Errorf("%d stores are outstanding, want each block's once", got)
		}

		first.Store(prompt)
		scene.router.Stop()
		scene.listen(newRouter(t))
		scene.holds(name, prompt, inMemory)
		node.Evict(other)
		scene.holds(name, marker, nil)
		scene.remains(name, prompt, inMemory)
		node.Evict(one)
		scene.holds(name, prompt, nil)
		if got := scene.router.Outstanding(name); got != 0 {
			t.Errorf("%d stores are outstanding", got)
		}
	})
}

// Engines of two models that read the same tokens have the same hashes.
func TestModelsOfOneNodeAreKeptApart(t *testing.T) {
	inModes(t, func(t *testing.T, scene *scene) {
		node, _, name := scene.crowd()
		has := func(model string, want map[string]int) {
			t.Helper()
			harness.Eventually(t, fmt.Sprintf("%v of %s", want, model), func() string {
				got := scene.router.Ask(model, prompt.Tokens(), nil)[name].Tiers
				if len(got)+len(want) == 0 || maps.Equal(got, want) {
					return ""
				}
				return fmt.Sprintf("%v", got)
			})
		}
		first := node.Attach(harness.EngineOptions{Model: "m"})
		first.Store(prompt)
		one := only(t, node)
		second := node.Attach(harness.EngineOptions{Model: "other"})
		second.Store(prompt)
		has("m", inMemory)
		has("other", inMemory)
		node.Evict(one)
		has("m", nil)
		has("other", inMemory)
		node.Evict(only(t, node, one))
		has("other", nil)
		if got := scene.router.Outstanding(name); got != 0 {
			t.Errorf("%d stores are outstanding", got)
		}
	})
}

// A killed daemon takes nothing back. The next one does: it clears what is its own name's, and who dials begins anew.
func TestWhatAKilledDaemonHadInMemoryIsForgottenUnderItsNodesName(t *testing.T) {
	inModes(t, func(t *testing.T, scene *scene) {
		node, daemon, name := scene.crowd()
		engine := node.Attach(harness.EngineOptions{Model: "m"})
		engine.Store(prompt)
		scene.holds(name, prompt, inMemory)
		daemon.Kill()
		daemon = node.Start()
		scene.holds(name, prompt, nil)
		engine = node.Attach(harness.EngineOptions{Model: "m"})
		engine.Store(prompt)
		scene.holds(name, prompt, inMemory)
		scene.isWhole()
		daemon.Stop()
		scene.holds(name, prompt, nil)
		if got := scene.router.Outstanding(name); got != 0 {
			t.Errorf("%d stores are outstanding", got)
		}
	})
}
