// Package wire holds what a KV event is and how it lies in bytes: the format of vLLM's publisher, as the llm-d router
// reads it. Encoding is here for the golden bytes and for tests that publish by themselves; decoding is as strict as the
// router's, so that what it would drop does not pass here.
package wire

import (
	"encoding/hex"
	"encoding/json"
)

// The tags of events.
const (
	Stored  = "BlockStored"
	Removed = "BlockRemoved"
	Cleared = "AllBlocksCleared"
)

// Hash is an engine's block hash, as hexadecimal digits in JSON.
type Hash []byte

// Event is one of the three, and only the fields that belong to it are set. Pointers are the fields that may be nil on
// the wire.
type Event struct {
	Type      string   `json:"type"`
	Hashes    []Hash   `json:"block_hashes,omitempty"`
	Parent    Hash     `json:"parent_block_hash,omitempty"`
	Tokens    []uint32 `json:"token_ids,omitempty"`
	BlockSize int      `json:"block_size,omitempty"`
	LoraID    *int     `json:"lora_id,omitempty"`
	Medium    *string  `json:"medium,omitempty"`
	LoraName  *string  `json:"lora_name,omitempty"`
	// As many entries for each hash as it has of the engine's blocks; nil: nothing extra in that one.
	ExtraKeys [][]any `json:"extra_keys,omitempty"`
	Group     *int    `json:"group_idx,omitempty"`
	Kind      *string `json:"kv_cache_spec_kind,omitempty"`
	Window    *int    `json:"kv_cache_spec_sliding_window,omitempty"`
	// In maps only: whoever reads arrays is older than this field.
	Locality *string `json:"locality,omitempty"`
}

// Batch is what one message carries.
type Batch struct {
	Time   float64 `json:"ts"`
	Events []Event `json:"events"`
	Rank   *int    `json:"data_parallel_rank"`
}

// MarshalText writes the hash as hexadecimal digits.
func (hash Hash) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(hash)), nil }

// UnmarshalText reads them.
func (hash *Hash) UnmarshalText(text []byte) error {
	octets, err := hex.DecodeString(string(text))
	*hash = octets
	return err
}

// Text is the event as JSON, for messages of tests.
func (event Event) Text() string {
	text, err := json.Marshal(event)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
