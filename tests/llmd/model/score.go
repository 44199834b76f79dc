package model

import (
	"maps"
	"slices"
)

// Answer says what one pod has of a prompt.
type Answer struct {
	// Score is the sum of weights of the best tier of each block, along the prefix that the pod has.
	Score float64 `json:"score"`
	// Blocks of the prefix, on any tier.
	Blocks int `json:"blocks"`
	// Blocks of the prefix that each tier has from the first block on.
	Tiers map[string]int `json:"tiers"`
}

// Whole is the score that decides: fractions of a block do not count.
func (answer Answer) Whole() int { return int(answer.Score) }

// Ask answers for every pod that has the first block. model is the adapter's name where there is one.
func (index *Index) Ask(model string, tokens []uint32) map[string]Answer {
	return index.AskKeys(Keys(RootKey(index.Seed, model), tokens, nil))
}

// AskKeys is Ask for keys, so with features.
func (index *Index) AskKeys(keys []Key) map[string]Answer {
	index.mutex.Lock()
	defer index.mutex.Unlock()
	answers := map[string]Answer{}
	if len(keys) == 0 {
		return answers
	}
	for entry := range index.copies[keys[0]] {
		answers[entry.Pod] = Answer{Tiers: map[string]int{}}
	}
	for pod := range answers {
		answers[pod] = index.along(pod, keys)
	}
	return answers
}

func (index *Index) along(pod string, keys []Key) Answer {
	answer := Answer{Tiers: map[string]int{}}
	for at, key := range keys {
		best, isThere := 0.0, false
		tiers := map[string]bool{}
		for entry := range index.copies[key] {
			if entry.Pod == pod {
				best, isThere = max(best, index.weight(entry.Tier)), true
				tiers[entry.Tier] = true
			}
		}
		if !isThere {
			break
		}
		for tier := range tiers {
			if answer.Tiers[tier] == at {
				answer.Tiers[tier]++
			}
		}
		answer.Score += best
		answer.Blocks++
	}
	return answer
}

func (index *Index) weight(tier string) float64 {
	if weight, isConfigured := index.Weights[tier]; isConfigured {
		return weight
	}
	return 1
}

// Copies lists who has the last block of tokens, in order.
func (index *Index) Copies(model string, tokens []uint32) []Entry {
	keys := Keys(RootKey(index.Seed, model), tokens, nil)
	index.mutex.Lock()
	defer index.mutex.Unlock()
	if len(keys) == 0 {
		return nil
	}
	entries := slices.Collect(maps.Keys(index.copies[keys[len(keys)-1]]))
	slices.SortFunc(entries, func(a, b Entry) int {
		if a.Pod+a.Tier < b.Pod+b.Tier {
			return -1
		}
		return 1
	})
	return entries
}
