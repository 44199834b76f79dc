package model

import (
	"hash/fnv"

	"github.com/fxamacker/cbor/v2"

	"kvtier.test/llmd/wire"
)

// BlockTokens is how many tokens one of the router's own keys covers, by default.
const BlockTokens = 16

// Key is the router's name of a block of its own size. It depends on tokens, model and features only.
type Key uint64

// Feature is one multimodal item, or the salt of a cache. The name of its field is part of the router's keys.
type Feature struct{ Hash string }

var canonical = func() cbor.EncMode {
	mode, err := cbor.CanonicalEncOptions().EncMode()
	if err != nil {
		panic(err)
	}
	return mode
}()

func digest(parent uint64, tokens []uint32, extra any) uint64 {
	octets, err := canonical.Marshal([]any{parent, tokens, extra})
	if err != nil {
		panic(err)
	}
	sum := fnv.New64a()
	_, _ = sum.Write(octets)
	return sum.Sum64()
}

// RootKey is what the first block of every sequence of a model follows.
func RootKey(seed, model string) Key {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(seed))
	return Key(digest(sum.Sum64(), nil, model))
}

// Keys names the whole blocks of tokens that follow parent. features has one entry for each block, or is nil.
func Keys(parent Key, tokens []uint32, features [][]Feature) []Key {
	keys := make([]Key, 0, len(tokens)/BlockTokens)
	for begin := 0; begin+BlockTokens <= len(tokens); begin += BlockTokens {
		var extra any
		if index := begin / BlockTokens; features != nil && features[index] != nil {
			extra = features[index]
		}
		parent = Key(digest(uint64(parent), tokens[begin:begin+BlockTokens], extra))
		keys = append(keys, parent)
	}
	return keys
}

// featuresOf takes what is text in an event's extra keys, whatever it means there: names of adapters and salts too.
// Entries are spread evenly over the router's blocks.
func featuresOf(event *wire.Event) [][]Feature {
	blocks := len(event.Tokens) / BlockTokens
	entries := len(event.ExtraKeys)
	if entries == 0 || blocks == 0 {
		return nil
	}
	parsed := make([][]Feature, entries)
	for index, keys := range event.ExtraKeys {
		for _, key := range keys {
			if list, isList := key.([]any); isList && len(list) > 0 {
				key = list[0]
			}
			if text, isText := key.(string); isText {
				parsed[index] = append(parsed[index], Feature{text})
			}
		}
	}
	features := make([][]Feature, blocks)
	if entries <= blocks {
		for index := range features {
			features[index] = parsed[index*entries/blocks]
		}
		return features
	}
	for index, some := range parsed {
		at := index * blocks / entries
		features[at] = append(features[at], some...)
	}
	return features
}
