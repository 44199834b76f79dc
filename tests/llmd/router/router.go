package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/llm-d/llm-d-router/pkg/kvcache"
	"github.com/llm-d/llm-d-router/pkg/kvcache/kvblock"
	"github.com/llm-d/llm-d-router/pkg/kvcache/metrics"
	"github.com/llm-d/llm-d-router/pkg/kvevents"
	"github.com/llm-d/llm-d-router/pkg/kvevents/engineadapter"
)

const (
	// What the router subscribes to, and what its endpoint picker calls its own socket.
	topicFilter      = "kv@"
	sharedSubscriber = "local-subscriber"
	// How many blocks the index has room for: more than any test tells of.
	indexBlocks = 100_000
	// Copies of one block: pods times tiers.
	indexCopies = 32
	workers     = 2
	// How long to wait for what must come to an end.
	patience = time.Minute
)

// router is put together as the endpoint picker's precise-prefix-cache-producer is. Its index, its adapter and its tokens
// are the router's own, looked at by watch.
type router struct {
	ctx         context.Context
	watch       *watch
	index       kvblock.Index
	tokens      kvblock.TokenProcessor
	scorer      kvcache.KVBlockScorer
	pool        *kvevents.Pool
	subscribers *kvevents.SubscriberManager
	// The one socket there is, if there is one, and when it has ended.
	subscriber string
	ended      <-chan struct{}
}

func newRouter(ctx context.Context, weights map[string]float64) (*router, error) {
	watch := newWatch()
	ctx = watch.listening(ctx, nil)
	index, err := kvblock.NewIndex(ctx, &kvblock.IndexConfig{
		InMemoryConfig: &kvblock.InMemoryIndexConfig{Size: indexBlocks, PodCacheSize: indexCopies},
	})
	if err != nil {
		return nil, err
	}
	tokens, err := kvblock.NewChunkedTokenDatabase(kvblock.DefaultTokenProcessorConfig())
	if err != nil {
		return nil, err
	}
	scoring := kvcache.DefaultKVBlockScorerConfig()
	scoring.BackendConfigs = nil
	for tier, weight := range weights {
		scoring.BackendConfigs = append(scoring.BackendConfigs, &kvcache.KVCacheBackendConfig{Name: tier, Weight: weight})
	}
	scorer, err := kvcache.NewKVBlockScorer(scoring)
	if err != nil {
		return nil, err
	}
	adapter, err := engineadapter.NewAdapter(engineadapter.EngineTypeVLLM)
	if err != nil {
		return nil, err
	}
	config := kvevents.DefaultConfig()
	config.Concurrency = workers
	pool := kvevents.NewPool(config, watchedIndex{index, watch}, watchedTokens{tokens, watch}, watchedAdapter{adapter, watch})
	pool.Start(ctx)
	return &router{
		ctx: ctx, watch: watch, index: index, tokens: tokens, scorer: scorer, pool: pool,
		subscribers: kvevents.NewSubscriberManager(pool),
	}, nil
}

// subscribe opens the shared socket, or dials a pod.
func (router *router) subscribe(pod, endpoint, replay string, dials bool) error {
	if router.subscriber != "" {
		return errors.New("it hears already")
	}
	name := sharedSubscriber
	if dials {
		name = pod
	}
	ended := make(chan struct{})
	ctx := router.watch.listening(router.ctx, ended)
	if err := router.subscribers.EnsureSubscriber(ctx, name, pod, endpoint, replay, topicFilter, dials); err != nil {
		return err
	}
	router.subscriber, router.ended = name, ended
	return nil
}

// unsubscribe closes the socket, and comes back once nothing more is taken in.
func (router *router) unsubscribe() error {
	if router.subscriber == "" {
		return nil
	}
	router.subscribers.RemoveSubscriber(router.ctx, router.subscriber)
	router.subscriber = ""
	select {
	case <-router.ended:
	case <-time.After(patience):
		return errors.New("the subscriber does not end")
	}
	return router.drain()
}

func (router *router) ingest(topic, source string, payload []byte) error {
	router.pool.AddTask(&kvevents.RawMessage{Topic: topic, SourceEndpoint: source, Payload: payload})
	return router.drain()
}

// drain waits until the pool has nothing left to do.
func (router *router) drain() error {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		depth, err := read(metrics.PoolQueueDepth)
		if err != nil || depth == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%v messages are still queued", depth)
		}
	}
}

// found says what one pod has of a prompt; `model.Answer` of the tests.
type found struct {
	Score  float64        `json:"score"`
	Blocks int            `json:"blocks"`
	Tiers  map[string]int `json:"tiers"`
}

// copied is one copy of a block; `model.Entry` of the tests.
type copied struct {
	Pod, Tier string
	Group     int
}

func (router *router) lookUp(model string, tokens []uint32, features []*kvblock.BlockExtraFeatures) (
	[]kvblock.BlockHash, map[kvblock.BlockHash][]kvblock.PodEntry, error,
) {
	keys, err := router.tokens.TokensToKVBlockKeys(kvblock.EmptyBlockHash, tokens, model, features)
	if err != nil || len(keys) == 0 {
		return nil, nil, err
	}
	copies, err := router.index.Lookup(router.ctx, keys, nil)
	return keys, copies, err
}

// ask gives every pod that has the first block, with the router's score. Blocks and tiers are read off its index.
func (router *router) ask(model string, tokens []uint32, features [][]string) (map[string]found, error) {
	keys, copies, err := router.lookUp(model, tokens, featuresOf(features))
	if err != nil {
		return nil, err
	}
	scores, err := router.scorer.Score(router.ctx, keys, copies)
	if err != nil {
		return nil, err
	}
	answer := map[string]found{}
	for pod, score := range scores {
		answer[pod] = along(pod, score, keys, copies)
	}
	return answer, nil
}

func along(
	pod string, score float64, keys []kvblock.BlockHash, copies map[kvblock.BlockHash][]kvblock.PodEntry,
) found {
	answer := found{Score: score, Tiers: map[string]int{}}
	for at, key := range keys {
		tiers := map[string]bool{}
		for _, entry := range copies[key] {
			if entry.PodIdentifier == pod {
				tiers[entry.DeviceTier] = true
			}
		}
		if len(tiers) == 0 {
			break
		}
		answer.Blocks++
		for tier := range tiers {
			if answer.Tiers[tier] == at {
				answer.Tiers[tier]++
			}
		}
	}
	return answer
}

func (router *router) copies(model string, tokens []uint32) ([]copied, error) {
	keys, copies, err := router.lookUp(model, tokens, nil)
	if err != nil || len(keys) == 0 {
		return []copied{}, err
	}
	list := []copied{}
	for _, entry := range copies[keys[len(keys)-1]] {
		one := copied{entry.PodIdentifier, entry.DeviceTier, -1}
		if entry.HasGroup {
			one.Group = int(entry.GroupIdx)
		}
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b copied) int { return cmp.Compare(a.Pod+a.Tier, b.Pod+b.Tier) })
	return list, nil
}

func featuresOf(blocks [][]string) []*kvblock.BlockExtraFeatures {
	if blocks == nil {
		return nil
	}
	features := make([]*kvblock.BlockExtraFeatures, len(blocks))
	for index, texts := range blocks {
		for _, text := range texts {
			if features[index] == nil {
				features[index] = &kvblock.BlockExtraFeatures{}
			}
			features[index].MMHashes = append(features[index].MMHashes, kvblock.MMHash{Hash: text})
		}
	}
	return features
}
