package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"unsafe"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/llm-d/llm-d-router/pkg/common/observability/logging"
	"github.com/llm-d/llm-d-router/pkg/kvcache/kvblock"
	"github.com/llm-d/llm-d-router/pkg/kvcache/metrics"
	"github.com/llm-d/llm-d-router/pkg/kvevents"
)

// counts say what became of batches and events; `model.Counters` of the tests, field by field.
type counts struct {
	Batches, Refused, Stored, Removed, Orphans, Skipped, Suppressed, Resets, Replays, Gaps int
}

// watch counts what passes between the router's own parts, and what it says about itself. It changes nothing.
type watch struct {
	mutex sync.Mutex
	seen  counts
}

func newWatch() *watch { return &watch{} }

func (watch *watch) count(change func(*counts)) {
	watch.mutex.Lock()
	defer watch.mutex.Unlock()
	change(&watch.seen)
}

// What the router's subscriber says, in its own words.
const (
	saysGap      = `"msg"="Detected gap in event sequence, requesting replay"`
	saysCooldown = `"msg"="Dropping event while replay is in cooldown"`
	saysReplayed = `"msg"="Replay complete"`
	saysEnd      = `"msg"="shutting down zmq-subscriber"`
)

// listening is a context whose logger is heard: some things the router tells nobody else. ended is closed by a
// subscriber's last words.
func (watch *watch) listening(ctx context.Context, ended chan<- struct{}) context.Context {
	var once sync.Once
	return logr.NewContext(ctx, funcr.New(func(prefix, line string) {
		fmt.Fprintln(os.Stderr, prefix, line)
		switch {
		case strings.Contains(line, saysGap), strings.Contains(line, saysCooldown):
			watch.count(func(seen *counts) { seen.Gaps++ })
		case strings.Contains(line, saysReplayed):
			watch.count(func(seen *counts) { seen.Replays++ })
		case ended != nil && strings.Contains(line, saysEnd):
			once.Do(func() { close(ended) })
		}
	}, funcr.Options{Verbosity: logging.DEBUG, LogTimestamp: true}))
}

// counters are those of now. The router counts skipped events and suppressed removals itself.
func (watch *watch) counters() (counts, error) {
	suppressed, err := read(metrics.DedupRemovedHashesSuppressed)
	if err != nil {
		return counts{}, err
	}
	stores, err := sum(metrics.KVEventStoresSkipped)
	if err != nil {
		return counts{}, err
	}
	removals, err := sum(metrics.KVEventRemovalsSkipped)
	if err != nil {
		return counts{}, err
	}
	watch.mutex.Lock()
	defer watch.mutex.Unlock()
	seen := watch.seen
	seen.Suppressed = int(suppressed)
	seen.Skipped += int(stores + removals)
	return seen, nil
}

type readable interface{ Write(*dto.Metric) error }

func read(metric readable) (float64, error) {
	var value dto.Metric
	if err := metric.Write(&value); err != nil {
		return 0, err
	}
	return value.GetCounter().GetValue() + value.GetGauge().GetValue(), nil
}

func sum(vector prometheus.Collector) (float64, error) {
	metrics := make(chan prometheus.Metric)
	go func() {
		vector.Collect(metrics)
		close(metrics)
	}()
	total, problems := 0.0, []error(nil)
	for metric := range metrics {
		value, err := read(metric)
		total, problems = total+value, append(problems, err)
	}
	return total, errors.Join(problems...)
}

// watchedAdapter sees which messages are taken and which are refused.
type watchedAdapter struct {
	kvevents.EngineAdapter
	watch *watch
}

func (adapter watchedAdapter) ParseMessage(message *kvevents.RawMessage) (
	pod, model string, batch kvevents.EventBatch, err error,
) {
	pod, model, batch, err = adapter.EngineAdapter.ParseMessage(message)
	adapter.watch.count(func(seen *counts) {
		seen.Batches++
		if err != nil {
			seen.Refused++
		}
		for _, event := range batch.Events {
			if _, isRemoval := event.(*kvevents.BlockRemovedEvent); isRemoval {
				seen.Removed++
			}
		}
	})
	return pod, model, batch, err
}

// watchedTokens sees stores that are less than one of the router's blocks.
type watchedTokens struct {
	kvblock.TokenProcessor
	watch *watch
}

func (tokens watchedTokens) TokensToKVBlockKeys(
	parent kvblock.BlockHash, some []uint32, model string, features []*kvblock.BlockExtraFeatures,
) ([]kvblock.BlockHash, error) {
	keys, err := tokens.TokenProcessor.TokensToKVBlockKeys(parent, some, model, features)
	if len(keys) == 0 && len(some) > 0 {
		tokens.watch.count(func(seen *counts) { seen.Skipped++ })
	}
	return keys, err
}

// watchedIndex sees what is stored, which parents nobody told, and pods that are forgotten.
type watchedIndex struct {
	kvblock.Index
	watch *watch
}

func (index watchedIndex) Add(ctx context.Context, hashes, keys []kvblock.BlockHash, entries []kvblock.PodEntry) error {
	err := index.Index.Add(ctx, hashes, keys, entries)
	if err == nil {
		index.watch.count(func(seen *counts) { seen.Stored++ })
	}
	return err
}

func (index watchedIndex) GetRequestKey(ctx context.Context, hash kvblock.BlockHash) (kvblock.BlockHash, error) {
	key, err := index.Index.GetRequestKey(ctx, hash)
	if err != nil {
		index.watch.count(func(seen *counts) { seen.Orphans++ })
	}
	return key, err
}

func (index watchedIndex) Clear(ctx context.Context, pod string) error {
	index.watch.count(func(seen *counts) { seen.Resets++ })
	return index.Index.Clear(ctx, pod)
}

// outstanding is the number of a pod's stores that no removal has answered, by the router's own count. It keeps that to
// itself, so it is looked up behind its back, under its own lock; another version may keep it elsewhere, which is said.
func outstanding(pool *kvevents.Pool, pod string) (total int, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("this version counts stores in another way: %v", problem)
		}
	}()
	filter := reflect.ValueOf(pool).Elem().FieldByName("dedup").Elem()
	field := filter.FieldByName("mu")
	mutex, isMutex := reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Interface().(*sync.Mutex)
	if !isMutex {
		return 0, errors.New("this version counts stores under another lock")
	}
	mutex.Lock()
	defer mutex.Unlock()
	pods := filter.FieldByName("refs")
	if references := pods.MapIndex(reflect.ValueOf(pod)); references.IsValid() {
		for each := references.MapRange(); each.Next(); {
			total += int(each.Value().Int())
		}
	}
	return total, nil
}
