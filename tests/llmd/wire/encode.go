package wire

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Encoding is how events lie in a batch. Both are vLLM's: arrays until 0.20, maps since.
type Encoding string

// The encodings.
const (
	Arrays Encoding = "array"
	Maps   Encoding = "map"
)

// Encode writes a batch in the form kvtier uses: integers and lengths in their shortest form, hashes as bin, times as
// 64-bit floats.
func Encode(batch Batch, encoding Encoding) []byte {
	out := packer{}
	out.array(3)
	out.float(batch.Time)
	out.array(len(batch.Events))
	for _, event := range batch.Events {
		if encoding == Maps {
			out.mapped(event)
		} else {
			out.positional(event)
		}
	}
	out.value(batch.Rank)
	return out.bytes
}

// Sequence writes the second frame of a message.
func Sequence(number uint64) []byte { return binary.BigEndian.AppendUint64(nil, number) }

// The form of arrays: the tag, then fields by position. A group brings all that come after it along; else what is absent
// at the end is left away.
func (out *packer) positional(event Event) {
	fields := []any{event.Type}
	always := 1
	switch event.Type {
	case Stored:
		fields = append(fields, event.Hashes, event.Parent, event.Tokens, event.BlockSize, event.LoraID, event.Medium,
			event.LoraName, event.ExtraKeys, event.Group, event.Kind, event.Window)
		always = 8
		if event.Group != nil {
			always = len(fields)
		}
	case Removed:
		fields = append(fields, event.Hashes, event.Medium, event.Group)
		always = 3
	}
	for len(fields) > always && isNil(fields[len(fields)-1]) {
		fields = fields[:len(fields)-1]
	}
	out.array(len(fields))
	for _, field := range fields {
		out.value(field)
	}
}

// The form of maps: the older fields always, the newer ones where they say something.
func (out *packer) mapped(event Event) {
	type field struct {
		name  string
		value any
	}
	fields := []field{{"type", event.Type}}
	optional := []field{}
	switch event.Type {
	case Stored:
		fields = append(fields, field{"block_hashes", event.Hashes}, field{"parent_block_hash", event.Parent},
			field{"token_ids", event.Tokens}, field{"block_size", event.BlockSize}, field{"lora_id", event.LoraID},
			field{"medium", event.Medium}, field{"lora_name", event.LoraName})
		optional = append(optional, field{"extra_keys", event.ExtraKeys}, field{"group_idx", event.Group},
			field{"kv_cache_spec_kind", event.Kind}, field{"kv_cache_spec_sliding_window", event.Window},
			field{"locality", event.Locality})
	case Removed:
		fields = append(fields, field{"block_hashes", event.Hashes}, field{"medium", event.Medium})
		optional = append(optional, field{"group_idx", event.Group}, field{"locality", event.Locality})
	}
	for _, candidate := range optional {
		if !isNil(candidate.value) {
			fields = append(fields, candidate)
		}
	}
	out.head(len(fields), 0x80, 16, 0xde)
	for _, field := range fields {
		out.text(field.name)
		out.value(field.value)
	}
}

func isNil(value any) bool {
	switch value := value.(type) {
	case Hash:
		return value == nil
	case *int:
		return value == nil
	case *string:
		return value == nil
	case [][]any:
		return value == nil
	}
	return false
}

// packer writes msgpack by hand: the golden bytes are to be independent of every library that reads them.
type packer struct{ bytes []byte }

func (out *packer) value(value any) {
	if isNil(value) {
		out.bytes = append(out.bytes, 0xc0)
		return
	}
	switch value := value.(type) {
	case string:
		out.text(value)
	case *string:
		out.text(*value)
	case int:
		out.unsigned(uint64(value)) //nolint:gosec // never negative here
	case *int:
		out.unsigned(uint64(*value)) //nolint:gosec // likewise
	case uint32:
		out.unsigned(uint64(value))
	case float64:
		out.unsigned(uint64(value)) // a whole number that came through JSON
	case Hash:
		out.binary(value)
	case []Hash:
		each(out, value)
	case []uint32:
		each(out, value)
	case []any:
		if value == nil {
			out.bytes = append(out.bytes, 0xc0)
			return
		}
		each(out, value)
	case [][]any:
		each(out, value)
	default:
		panic(fmt.Sprintf("no event holds a %T", value))
	}
}

func each[T any](out *packer, values []T) {
	out.array(len(values))
	for _, value := range values {
		out.value(value)
	}
}

func (out *packer) array(length int) { out.head(length, 0x90, 16, 0xdc) }

// head writes the length of an array or a map.
func (out *packer) head(length int, fixed byte, fixedBelow int, wide byte) {
	switch {
	case length < fixedBelow:
		out.bytes = append(out.bytes, fixed|byte(length))
	case length <= math.MaxUint16:
		out.bytes = append(out.bytes, wide, byte(length>>8), byte(length))
	default:
		out.bytes = binary.BigEndian.AppendUint32(append(out.bytes, wide+1), uint32(length)) //nolint:gosec // bounded
	}
}

func (out *packer) unsigned(number uint64) {
	switch {
	case number < 0x80:
		out.bytes = append(out.bytes, byte(number))
	case number <= math.MaxUint8:
		out.bytes = append(out.bytes, 0xcc, byte(number))
	case number <= math.MaxUint16:
		out.bytes = binary.BigEndian.AppendUint16(append(out.bytes, 0xcd), uint16(number))
	case number <= math.MaxUint32:
		out.bytes = binary.BigEndian.AppendUint32(append(out.bytes, 0xce), uint32(number))
	default:
		out.bytes = binary.BigEndian.AppendUint64(append(out.bytes, 0xcf), number)
	}
}

func (out *packer) float(number float64) {
	out.bytes = binary.BigEndian.AppendUint64(append(out.bytes, 0xcb), math.Float64bits(number))
}

func (out *packer) text(text string) {
	switch {
	case len(text) < 32:
		out.bytes = append(out.bytes, 0xa0|byte(len(text)))
	case len(text) <= math.MaxUint8:
		out.bytes = append(out.bytes, 0xd9, byte(len(text)))
	default:
		out.bytes = binary.BigEndian.AppendUint16(append(out.bytes, 0xda), uint16(len(text))) //nolint:gosec // short
	}
	out.bytes = append(out.bytes, text...)
}

func (out *packer) binary(octets []byte) {
	if len(octets) > math.MaxUint8 {
		panic("a hash of more than 255 bytes")
	}
	out.bytes = append(append(out.bytes, 0xc4, byte(len(octets))), octets...)
}
