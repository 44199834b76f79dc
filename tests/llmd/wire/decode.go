package wire

import (
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

// Decode reads a batch as the router does: one event that it does not understand, and the whole batch is refused.
func Decode(payload []byte) (Batch, error) {
	var raw struct {
		_      struct{} `msgpack:",array"`
		Time   float64
		Events []msgpack.RawMessage
		Rank   *int
	}
	if err := msgpack.Unmarshal(payload, &raw); err != nil {
		return Batch{}, fmt.Errorf("batch: %w", err)
	}
	batch := Batch{Time: raw.Time, Events: make([]Event, 0, len(raw.Events)), Rank: raw.Rank}
	for index, octets := range raw.Events {
		event, err := decodeEvent(octets)
		if err != nil {
			return Batch{}, fmt.Errorf("event %d: %w", index, err)
		}
		batch.Events = append(batch.Events, event)
	}
	return batch, nil
}

var fieldOrder = map[string][]string{
	Stored: {
		"block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name", "extra_keys",
		"group_idx", "kv_cache_spec_kind", "kv_cache_spec_sliding_window", "locality",
	},
	Removed: {"block_hashes", "medium", "group_idx", "locality"},
	Cleared: {},
}

// fields are those of one event by name, from either encoding.
type fields struct {
	values map[string]any
	err    error
}

func decodeEvent(octets []byte) (Event, error) {
	var decoded any
	if err := msgpack.Unmarshal(octets, &decoded); err != nil {
		return Event{}, err
	}
	named := map[string]any{}
	var tag any
	isMap := false
	switch decoded := decoded.(type) {
	case map[string]any:
		named, tag, isMap = decoded, decoded["type"], true
	case []any:
		if len(decoded) == 0 {
			return Event{}, errors.New("no tag")
		}
		tag = decoded[0]
		name, _ := tag.(string)
		for index, field := range fieldOrder[name] {
			if index+1 < len(decoded) && field != "locality" {
				named[field] = decoded[index+1]
			}
		}
		if need := map[string]int{Stored: 5, Removed: 2}[name]; len(decoded) < need {
			return Event{}, fmt.Errorf("%s: want at least %d elements, got %d", name, need, len(decoded))
		}
	default:
		return Event{}, fmt.Errorf("want an array or a map, got a %T", decoded)
	}
	name, isText := tag.(string)
	if !isText {
		return Event{}, fmt.Errorf("want a tag, got a %T", tag)
	}
	if _, known := fieldOrder[name]; !known {
		return Event{}, fmt.Errorf("unknown tag %q", name)
	}
	reader := fields{values: named}
	event := reader.event(name, isMap)
	if reader.err != nil {
		return Event{}, fmt.Errorf("%s: %w", name, reader.err)
	}
	return event, nil
}

func (reader *fields) event(name string, isMap bool) Event {
	event := Event{Type: name}
	if name == Cleared {
		return event
	}
	event.Hashes = reader.hashes("block_hashes")
	event.Medium, event.Group = reader.text("medium"), reader.number("group_idx")
	if event.Group != nil && *event.Group < 0 {
		reader.fail("group_idx", "a number from 0", *event.Group)
	}
	if isMap {
		event.Locality = reader.text("locality")
	}
	if name == Removed {
		return event
	}
	if parent := reader.values["parent_block_hash"]; parent != nil {
		event.Parent = reader.hash("parent_block_hash", parent)
	}
	event.Tokens = reader.tokens()
	event.LoraID, event.LoraName = reader.number("lora_id"), reader.text("lora_name")
	event.Kind, event.Window = reader.text("kv_cache_spec_kind"), reader.number("kv_cache_spec_sliding_window")
	event.ExtraKeys = reader.extraKeys()
	if size := reader.number("block_size"); size != nil {
		event.BlockSize = *size
	} else {
		reader.fail("block_size", "a number", nil)
	}
	return event
}

func (reader *fields) fail(name, want string, got any) {
	if reader.err == nil {
		reader.err = fmt.Errorf("%s: want %s, got %T %v", name, want, got, got)
	}
}

func (reader *fields) list(name string, value any) []any {
	list, isList := value.([]any)
	if !isList {
		reader.fail(name, "an array", value)
	}
	return list
}

func (reader *fields) hashes(name string) []Hash {
	var hashes []Hash
	for _, value := range reader.list(name, reader.values[name]) {
		hashes = append(hashes, reader.hash(name, value))
	}
	return hashes
}

// A hash is bin. A number passes where it is written with all of its 64 bits; kvtier never writes one.
func (reader *fields) hash(name string, value any) Hash {
	switch number := value.(type) {
	case uint64:
		return Sequence(number)
	case int64:
		return Sequence(uint64(number)) //nolint:gosec // as the router does
	}
	octets, isBin := value.([]byte)
	if !isBin || len(octets) == 0 {
		reader.fail(name, "bin of at least one octet", value)
	}
	return octets
}

func (reader *fields) tokens() []uint32 {
	list := reader.list("token_ids", reader.values["token_ids"])
	tokens := make([]uint32, len(list))
	for index, value := range list {
		number, isNumber := integer(value)
		if !isNumber {
			reader.fail("token_ids", "numbers", value)
		}
		tokens[index] = uint32(number) //nolint:gosec // larger ones are cut, as the router does
	}
	return tokens
}

func (reader *fields) number(name string) *int {
	value := reader.values[name]
	if value == nil {
		return nil
	}
	number, isNumber := integer(value)
	if !isNumber {
		reader.fail(name, "a number", value)
	}
	return &number
}

func (reader *fields) text(name string) *string {
	value := reader.values[name]
	if value == nil {
		return nil
	}
	text, isText := value.(string)
	if !isText {
		reader.fail(name, "text", value)
	}
	return &text
}

func (reader *fields) extraKeys() [][]any {
	value := reader.values["extra_keys"]
	if value == nil {
		return nil
	}
	keys := [][]any{}
	for _, entry := range reader.list("extra_keys", value) {
		if entry == nil {
			keys = append(keys, nil)
			continue
		}
		keys = append(keys, reader.list("extra_keys", entry))
	}
	return keys
}

func integer(value any) (int, bool) {
	switch value := value.(type) {
	case int8:
		return int(value), true
	case int16:
		return int(value), true
	case int32:
		return int(value), true
	case int64:
		return int(value), true
	case uint8:
		return int(value), true
	case uint16:
		return int(value), true
	case uint32:
		return int(value), true
	case uint64:
		return int(value), true //nolint:gosec // as the router does
	}
	return 0, false
}
