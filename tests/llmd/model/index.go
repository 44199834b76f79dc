// Package model is a router of llm-d as far as block events go, written from what v0.10.0 was seen to do: which keys it
// makes, what it indexes, counts and forgets, how it scores, and when its sockets open, close and ask for a replay. It
// is no part of the router. It stands in for it where the router's own packages are not to be had, and uses the same
// libraries underneath (ZeroMQ, msgpack, CBOR), so that what crosses the wire is read by the same code.
package model

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"sync"

	"kvtier.test/llmd/wire"
)

// Entry is one copy of a block: who has it, on which tier.
type Entry struct {
	Pod, Tier string
	// -1: of no group.
	Group int
}

// scope is what removals are counted by.
type scope struct {
	Entry
	hash uint64
}

type group struct {
	pod   string
	index int
}

// Index is what a router knows. Safe for use from several goroutines.
type Index struct {
	// Seed is the router's hash seed.
	Seed string
	// Weights are the configured tiers; any other counts 1.
	Weights map[string]float64

	mutex sync.Mutex
	// Copies of each block.
	copies map[Key]map[Entry]bool
	// An engine's block is a run of ours.
	engine map[uint64][]Key
	// Stores that no removal has answered.
	references map[scope]int
	// Kinds of the groups that a pod has told.
	kinds map[group]string
	// Counters, for tests to wait on and to look at.
	counters Counters
}

// Counters say what became of batches and events.
type Counters struct {
	Batches, Refused, Stored, Removed, Orphans, Skipped, Suppressed, Resets, Replays, Gaps int
}

// DefaultWeights are the router's own.
func DefaultWeights() map[string]float64 { return map[string]float64{"gpu": 1, "cpu": 0.8} }

// NewIndex is an empty one.
func NewIndex(weights map[string]float64) *Index {
	return &Index{
		Weights: weights, copies: map[Key]map[Entry]bool{}, engine: map[uint64][]Key{}, references: map[scope]int{},
		kinds: map[group]string{},
	}
}

// Counters are those of now.
func (index *Index) Counters() Counters {
	index.mutex.Lock()
	defer index.mutex.Unlock()
	return index.counters
}

// Outstanding is the number of stores that no removal has answered.
func (index *Index) Outstanding(pod string) int {
	index.mutex.Lock()
	defer index.mutex.Unlock()
	sum := 0
	for scope, count := range index.references {
		if scope.Pod == pod {
			sum += count
		}
	}
	return sum
}

// Ingest takes a message in. source is the dialled endpoint, which is then who it is about; empty: the topic says.
func (index *Index) Ingest(topic, source string, payload []byte) error {
	pod, model := source, ""
	if parts := strings.Split(topic, "@"); len(parts) == 3 {
		model = parts[2]
		if pod == "" {
			pod = parts[1]
		}
	} else if pod == "" {
		pod = topic
	}
	batch, err := wire.Decode(payload)
	index.mutex.Lock()
	defer index.mutex.Unlock()
	index.counters.Batches++
	if err != nil {
		index.counters.Refused++
		return err
	}
	for i := range batch.Events {
		switch event := &batch.Events[i]; event.Type {
		case wire.Stored:
			index.store(pod, model, event)
		case wire.Removed:
			index.remove(pod, event)
		case wire.Cleared:
			index.clear(pod)
		}
	}
	return nil
}

func entryOf(pod string, event *wire.Event) Entry {
	entry := Entry{Pod: pod, Tier: "gpu", Group: -1}
	if event.Medium != nil && *event.Medium != "" {
		entry.Tier = strings.ToLower(*event.Medium)
	}
	if event.Group != nil {
		entry.Group = *event.Group
	}
	return entry
}

func shortened(hash wire.Hash) uint64 {
	var last [8]byte
	copy(last[max(0, 8-len(hash)):], hash[max(0, len(hash)-8):])
	return binary.BigEndian.Uint64(last[:])
}

func isFullAttention(kind string) bool {
	return slices.Contains([]string{"full_attention", "mla_attention", "sink_full_attention"}, kind)
}

func (index *Index) store(pod, model string, event *wire.Event) {
	entry := entryOf(pod, event)
	if !index.learn(entry, event) {
		index.counters.Skipped++
		return
	}
	if event.LoraName != nil && *event.LoraName != "" {
		model = *event.LoraName
	}
	parent := RootKey(index.Seed, model)
	if event.Parent != nil && shortened(event.Parent) != 0 {
		run := index.engine[shortened(event.Parent)]
		if len(run) == 0 {
			index.counters.Orphans++
			return
		}
		parent = run[len(run)-1]
	}
	keys := Keys(parent, event.Tokens, featuresOf(event))
	if len(keys) == 0 {
		keys = index.located(event)
	} else {
		index.relate(event.Hashes, keys)
	}
	if len(keys) == 0 {
		index.counters.Skipped++
		return
	}
	for _, key := range keys {
		if index.copies[key] == nil {
			index.copies[key] = map[Entry]bool{}
		}
		index.copies[key][entry] = true
	}
	for _, hash := range event.Hashes {
		index.references[scope{entry, shortened(hash)}]++
	}
	index.counters.Stored++
}

// learn notes a group's kind. Whether the event is one that a prefix is made of.
func (index *Index) learn(entry Entry, event *wire.Event) bool {
	if event.Group == nil {
		return true
	}
	about := group{entry.Pod, entry.Group}
	if event.Kind != nil && *event.Kind != "" {
		index.kinds[about] = *event.Kind
	}
	if !isFullAttention(index.kinds[about]) {
		return false
	}
	whole := event.BlockSize > 0 && len(event.Tokens) == event.BlockSize*len(event.Hashes)
	return whole || len(event.Tokens) == 0
}

// located finds the blocks of an event that tells a place only.
func (index *Index) located(event *wire.Event) []Key {
	if len(event.Tokens) != 0 {
		return nil
	}
	var keys []Key
	for _, hash := range event.Hashes {
		if run := index.engine[shortened(hash)]; len(run) > 0 {
			keys = append(keys, run[len(run)-1])
		}
	}
	return keys
}

// relate spreads an event's hashes evenly over the router's keys.
func (index *Index) relate(hashes []wire.Hash, keys []Key) {
	runs := map[uint64][]Key{}
	if len(hashes) >= len(keys) {
		for i, hash := range hashes {
			runs[shortened(hash)] = append(runs[shortened(hash)], keys[i*len(keys)/len(hashes)])
		}
	} else {
		for i, key := range keys {
			hash := shortened(hashes[i*len(hashes)/len(keys)])
			runs[hash] = append(runs[hash], key)
		}
	}
	maps.Copy(index.engine, runs)
}

func (index *Index) remove(pod string, event *wire.Event) {
	entry := entryOf(pod, event)
	if event.Group != nil && !isFullAttention(index.kinds[group{pod, entry.Group}]) {
		index.counters.Skipped++
		return
	}
	index.counters.Removed++
	for _, hash := range event.Hashes {
		about := scope{entry, shortened(hash)}
		if count := index.references[about]; count > 1 {
			index.references[about]--
			index.counters.Suppressed++
			continue
		}
		delete(index.references, about)
		index.evict(about.hash, entry)
	}
}

// evict forgets an engine's block as well once nobody has any of it, and then no child of it is taken in any more.
func (index *Index) evict(hash uint64, entry Entry) {
	isGone := true
	for _, key := range index.engine[hash] {
		delete(index.copies[key], entry)
		if len(index.copies[key]) == 0 {
			delete(index.copies, key)
		} else {
			isGone = false
		}
	}
	if isGone {
		delete(index.engine, hash)
	}
}

// Reset forgets everything about a pod.
func (index *Index) Reset(pod string) {
	index.mutex.Lock()
	defer index.mutex.Unlock()
	index.counters.Resets++
	index.clear(pod)
}

func (index *Index) clear(pod string) {
	for key, entries := range index.copies {
		maps.DeleteFunc(entries, func(entry Entry, _ bool) bool { return entry.Pod == pod })
		if len(entries) == 0 {
			delete(index.copies, key)
		}
	}
	maps.DeleteFunc(index.references, func(about scope, _ int) bool { return about.Pod == pod })
}

func (index *Index) count(change func(*Counters)) {
	index.mutex.Lock()
	defer index.mutex.Unlock()
	change(&index.counters)
}
