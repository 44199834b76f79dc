package llmd

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"kvtier.test/llmd/wire"
)

const goldenPath = "testdata/golden.json"

var update = flag.Bool("update", false, "write "+goldenPath+" anew")

func at[T any](value T) *T { return &value }

// A hash whose octets all differ, so that a wrong end or a wrong length shows.
func goldenHash(first byte) wire.Hash {
	hash := make(wire.Hash, 32)
	for i := range hash {
		hash[i] = first + byte(i)
	}
	return hash
}

func goldenTokens(first uint32, count int) []uint32 {
	tokens := make([]uint32, count)
	for i := range tokens {
		tokens[i] = first + uint32(i)
	}
	return tokens
}

func goldenBatches() []wire.Golden {
	root := wire.Event{
		Type: wire.Stored, Hashes: []wire.Hash{goldenHash(0x00)}, Tokens: goldenTokens(1000, 64), BlockSize: 64,
		Medium: at("cpu"),
	}
	child := wire.Event{
		Type: wire.Stored, Hashes: []wire.Hash{goldenHash(0x20)}, Parent: goldenHash(0x00),
		Tokens: goldenTokens(1064, 64), BlockSize: 64, Medium: at("cpu"),
	}
	run := wire.Event{
		Type: wire.Stored, Hashes: []wire.Hash{goldenHash(0x40), goldenHash(0x60), goldenHash(0x80)},
		Parent: goldenHash(0x20), Tokens: goldenTokens(100, 192), BlockSize: 64, Medium: at("cpu"),
	}
	with := func(event wire.Event, change func(*wire.Event)) wire.Event {
		change(&event)
		return event
	}
	removed := wire.Event{Type: wire.Removed, Hashes: []wire.Hash{goldenHash(0x00)}, Medium: at("cpu")}
	return []wire.Golden{
		named("empty"),
		named("root", root),
		named("child", child),
		named("run of three hashes", run),
		named("widths of integers", with(root, func(event *wire.Event) {
			event.Tokens = []uint32{0, 1, 127, 128, 255, 256, 65535, 65536, 1<<31 - 1, 1 << 31, 1<<32 - 1, 31, 32, 15, 16, 7}
			event.BlockSize = 16
		})),
		named("adapter", with(root, func(event *wire.Event) { event.LoraName = at("sql-adapter") })),
		named("adapter with its number", with(child, func(event *wire.Event) {
			event.LoraID, event.LoraName = at(7), at("sql-adapter")
		})),
		named("extra keys of a run", with(run, func(event *wire.Event) {
			event.ExtraKeys = [][]any{nil, {"9f86d081884c7d65", "image-2"}, nil}
		})),
		named("extra keys of blocks that are several of the engine's", with(run, func(event *wire.Event) {
			event.ExtraKeys = [][]any{{"salt"}, nil, nil, nil, nil, nil, nil, nil, nil, {"image-1"}, {"image-1", "image-2"}, nil}
		})),
		named("full attention group", with(root, func(event *wire.Event) {
			event.Group, event.Kind = at(0), at("full_attention")
		})),
		named("sliding window group", with(root, func(event *wire.Event) {
			event.Group, event.Kind, event.Window = at(1), at("sliding_window"), at(1024)
		})),
		named("local storage", with(root, func(event *wire.Event) {
			event.Medium, event.Locality = at("storage"), at("LOCAL")
		})),
		named("remote storage", with(child, func(event *wire.Event) {
			event.Medium, event.Locality = at("storage"), at("REMOTE")
		})),
		named("removed", removed),
		named("removed, several", with(removed, func(event *wire.Event) {
			event.Hashes = []wire.Hash{goldenHash(0x40), goldenHash(0x60), goldenHash(0x80)}
		})),
		named("removed from a group", with(removed, func(event *wire.Event) { event.Group = at(0) })),
		named("removed from local storage", with(removed, func(event *wire.Event) {
			event.Medium, event.Locality = at("storage"), at("LOCAL")
		})),
		named("announced again", removed, root, with(removed, func(event *wire.Event) {
			event.Hashes = []wire.Hash{goldenHash(0x20)}
		}), child),
	}
}

func named(name string, events ...wire.Event) wire.Golden {
	if events == nil {
		events = []wire.Event{}
	}
	return wire.Golden{
		Name: name, Topic: "kv@10.0.0.1:8000@Qwen/Qwen3-32B", Sequence: 258,
		Batch: wire.Batch{Time: 1.5, Events: events},
	}
}

func goldenCases() []wire.Golden {
	var cases []wire.Golden
	for _, encoding := range []wire.Encoding{wire.Arrays, wire.Maps} {
		for _, golden := range goldenBatches() {
			golden.Encoding = encoding
			if encoding == wire.Arrays {
				for i := range golden.Batch.Events {
					golden.Batch.Events[i].Locality = nil
				}
			}
			golden.SequenceFrame = wire.Sequence(golden.Sequence)
			golden.Payload = wire.Encode(golden.Batch, encoding)
			cases = append(cases, golden)
		}
	}
	return cases
}

func TestTheGoldenFileHoldsWhatIsEncoded(t *testing.T) {
	file := wire.GoldenFile{
		About: "Messages of kvtier's event stream, byte by byte. `payload` is the third frame; encoders write it from " +
			"`batch`, decoders read `batch` from it. Hashes are hexadecimal. A field that is absent is nil on the wire. " +
			"Stored events as arrays have 12 elements if there is a group, else 9 if there are extra keys, else 8; removed " +
			"ones have 4 if there is a group, else 3. " +
			"Written by `go test -run Golden -update`.",
		Cases: goldenCases(),
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(file); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(goldenPath, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(goldenPath)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(kept, text.Bytes()) {
		t.Errorf("%s differs from what is encoded; if that is meant, go test -run Golden -update", goldenPath)
	}
}

// Two events that vLLM 0.32 itself encoded, written down where it ran.
func TestMapsAreWhatVLLMWrites(t *testing.T) {
	zeroes := strings.Repeat("00", 32)
	cases := map[string]wire.Event{
		"84a474797065ac426c6f636b52656d6f766564ac626c6f636b5f68617368657391c420" + zeroes +
			"a66d656469756da3435055a967726f75705f69647800": {
			Type: wire.Removed, Hashes: []wire.Hash{make(wire.Hash, 32)}, Medium: at("CPU"), Group: at(0),
		},
		"81a474797065b0416c6c426c6f636b73436c6561726564": {Type: wire.Cleared},
	}
	for want, event := range cases {
		batch := wire.Hash(wire.Encode(wire.Batch{Time: 1.5, Events: []wire.Event{event}}, wire.Maps))
		text, _ := batch.MarshalText()
		if got := string(text); got != "93cb3ff800000000000091"+want+"c0" {
			t.Errorf("%s: got %s", event.Text(), got)
		}
	}
}
