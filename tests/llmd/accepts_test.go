package llmd

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"kvtier.test/llmd/wire"
)

const acceptedPath = "testdata/accepted.json"

type (
	list = []any
	dict = map[string]any
)

const podTopic = "kv@10.0.0.1:8000@m"

// raw is a batch of whatever these events are.
func raw(events ...any) []byte { return packed(list{1.5, events, nil}) }

func packed(value any) []byte {
	var out bytes.Buffer
	encoder := msgpack.NewEncoder(&out)
	encoder.SetSortMapKeys(true)
	encoder.UseCompactInts(true)
	if err := encoder.Encode(value); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// Hashes that differ in their last octets, which are all that a router keeps.
func hashOf(number byte) []byte {
	hash := bytes.Repeat([]byte{number}, 32)
	hash[0] = 0xee
	return hash
}

func ints(first, count int) list {
	tokens := make(list, count)
	for i := range tokens {
		tokens[i] = first + i
	}
	return tokens
}

// stored is a block of 64 tokens, by its place in the sequence 1000, 1001, ...
func stored(place int, more ...any) list {
	var parent any
	if place > 0 {
		parent = hashOf(byte(place))
	}
	event := list{wire.Stored, list{hashOf(byte(place + 1))}, parent, ints(1000+64*place, 64), 64, nil}
	if len(more) == 0 {
		return append(event, "cpu")
	}
	return append(event, more...)
}

func removed(place int, medium any, more ...any) list {
	return append(list{wire.Removed, list{hashOf(byte(place + 1))}, medium}, more...)
}

func one(name string, payloads ...[]byte) Accepted {
	question := Accepted{Name: name, Ask: Ask{Model: "m", First: 1000, Count: 256}}
	for _, payload := range payloads {
		question.Messages = append(question.Messages, Message{Topic: podTopic, Payload: payload})
	}
	return question
}

func (question Accepted) asking(change func(*Accepted)) Accepted {
	change(&question)
	return question
}

func fieldCases() []Accepted {
	mapped := dict{
		"type": wire.Stored, "block_hashes": list{hashOf(1)}, "parent_block_hash": nil, "token_ids": ints(1000, 64),
		"block_size": 64, "lora_id": nil, "medium": "cpu", "lora_name": nil,
	}
	with := func(name string, value any) dict {
		changed := dict{}
		for key, value := range mapped {
			changed[key] = value
		}
		changed[name] = value
		return changed
	}
	short := func(event list, length int) list { return event[:length] }
	changed := func(at int, value any) list {
		event := append(list{}, stored(0)...)
		event[at] = value
		return event
	}
	return []Accepted{
		one("array of 7", raw(stored(0))),
		one("array of 5, without a medium: gpu", raw(short(stored(0), 5))),
		one("array of 4: refused", raw(short(stored(0), 4))),
		one("array of 12, all optional ones nil", raw(stored(0, "cpu", nil, nil, nil, nil, nil))),
		one("array of 15, with fields of later versions", raw(stored(0, "cpu", nil, nil, nil, nil, nil, "LOCAL", "us", "id"))),
		one("map", raw(mapped)),
		one("map with locality, ownership, session and a field nobody knows",
			raw(with("locality", "LOCAL"), dict{"type": wire.Removed, "block_hashes": list{hashOf(9)}, "medium": "cpu",
				"ownership": "kvtier", "session_id": 7, "flavour": 1})),
		one("map without a type: refused", raw(dict{"block_hashes": list{}})),
		one("medium in capitals", raw(stored(0, "STORAGE"))),
		one("medium nil: gpu", raw(stored(0, nil))),
		one("medium that is not configured: weight 1", raw(stored(0, "tape"))),
		one("medium that is a number: refused", raw(stored(0, 7))),
		one("hash of 8 octets, the last 8 of a longer one", raw(stored(0), list{wire.Removed, list{hashOf(1)[24:]}, "cpu"})),
		one("hash of 64 unsigned bits", raw(changed(1, list{uint64(math.MaxUint64)}))),
		one("hash that is a small number: refused", raw(changed(1, list{7}))),
		one("hash that is text: refused", raw(changed(1, list{"00ff"}))),
		one("hash of no octets: refused", raw(changed(1, list{[]byte{}}))),
		one("parent 0, a small number: refused", raw(changed(2, 0))),
		one("parent of zeroes: a root", raw(changed(2, make([]byte, 32)))),
		one("parent nobody told: the event is dropped", raw(stored(1))),
		one("lora_id of 32 bits", raw(changed(5, 1<<31))),
		one("lora_id that is text: refused", raw(changed(5, "7"))),
		one("lora_name: a model of its own", raw(stored(0, "cpu", "sql"), stored(1, "cpu", "sql"))).
			asking(func(question *Accepted) { question.Ask.Model = "sql" }),
		one("lora_name: not the base model's", raw(stored(0, "cpu", "sql"))),
		one("lora_name of no letters: the base model", raw(stored(0, "cpu", ""))),
		one("block_size that does not fit, without a group", raw(changed(4, 7))),
		one("block_size nil: refused", raw(changed(4, nil))),
		one("tokens beyond 32 bits are cut", raw(changed(3, list{1 << 32}))),
		one("63 tokens: 3 of the router's blocks", raw(changed(3, ints(1000, 63)))),
		one("15 tokens: nothing", raw(changed(3, ints(1000, 15)))),
		one("time that is a whole number", packed(list{1, list{stored(0)}, nil})),
	}
}

func batchCases() []Accepted {
	return []Accepted{
		one("batch of 2: refused", packed(list{1.5, list{stored(0)}})),
		one("batch of 4: refused", packed(list{1.5, list{stored(0)}, nil, "more"})),
		one("batch with a rank", packed(list{1.5, list{stored(0)}, 3})),
		one("batch that is a map", packed(dict{"ts": 1.5, "events": list{stored(0)}, "data_parallel_rank": nil})),
		one("batch without events", raw()),
		one("an unknown event takes its batch along", raw(stored(0), list{"BlockMoved"}), raw(stored(1))),
		one("an event that is bin: refused", raw(packed(stored(0)))),
		one("both encodings in one batch", raw(stored(0), dict{"type": wire.Removed, "block_hashes": list{hashOf(1)},
			"medium": "cpu"})),
		one("topic with more than three parts: neither pod nor model", raw(stored(0))).
			asking(func(question *Accepted) { question.Messages[0].Topic = "kv@10.0.0.1:8000@a@b"; question.Ask.Model = "" }),
		one("dialled: the endpoint says who", raw(stored(0))).
			asking(func(question *Accepted) { question.Messages[0].Source = "10.9.9.9:1" }),
	}
}

func meaningCases() []Accepted {
	run := list{wire.Stored, list{hashOf(1), hashOf(2), hashOf(3)}, nil, ints(1000, 192), 64, nil, "cpu"}
	small := list{wire.Stored, list{hashOf(1), hashOf(2)}, nil, ints(1000, 16), 8, nil, "cpu"}
	both := one("two pods with one block", raw(stored(0)), raw(stored(0, "storage")), raw(removed(0, "cpu")))
	both.Messages[1].Topic = "kv@10.0.0.2:8000@m"
	return []Accepted{
		one("a chain of three", raw(stored(0), stored(1)), raw(stored(2))),
		one("a run of three", raw(run)),
		one("a run of three, the middle removed", raw(run, removed(1, "cpu"))),
		one("a run of three, then its child", raw(run, stored(3))),
		one("blocks smaller than the router's", raw(small)),
		one("two tiers, the better one counts", raw(stored(0, "storage"), stored(0), stored(1, "storage"))),
		one("two tiers, one removed", raw(stored(0, "storage"), stored(0), removed(0, "cpu"))),
		one("a removal from a tier where it never was", raw(stored(0, "storage"), removed(0, "cpu"))),
		one("stored twice, removed once", raw(stored(0), stored(0), removed(0, "cpu"))),
		one("stored twice, removed twice", raw(stored(0), stored(0), removed(0, "cpu"), removed(0, "cpu"))),
		one("announced again twice, removed once",
			raw(stored(0), removed(0, "cpu"), stored(0), removed(0, "cpu"), stored(0), removed(0, "cpu"))),
		one("announced again from nothing, removed once", raw(removed(0, "cpu"), stored(0), removed(0, "cpu"))),
		one("announced again: its children stay known", raw(stored(0), stored(1), removed(0, "cpu"), stored(0), stored(2))),
		one("a parent is gone: no prefix", raw(stored(0), stored(1), removed(0, "cpu"))),
		one("a parent is gone: its new child is dropped", raw(stored(0), removed(0, "cpu"), stored(1), stored(0))),
		one("a grandparent is gone and comes back",
			raw(stored(0), stored(1), removed(0, "cpu"), stored(2), stored(0))),
		one("a place only, of a block that is known", raw(stored(0),
			list{wire.Stored, list{hashOf(1)}, nil, list{}, 0, nil, "storage"})),
		one("a place only, of a block that is not", raw(list{wire.Stored, list{hashOf(1)}, nil, list{}, 0, nil, "storage"})),
		one("all cleared: every tier", raw(stored(0, "gpu"), stored(0), stored(0, "storage"), list{wire.Cleared})),
		both,
		one("group without a kind: skipped", raw(stored(0, "cpu", nil, nil, 0))),
		one("group of full attention", raw(stored(0, "cpu", nil, nil, 0, "full_attention"))),
		one("group of full attention, its kind told once", raw(stored(0, "cpu", nil, nil, 0, "full_attention"),
			stored(1, "cpu", nil, nil, 0))),
		one("group of full attention, removed without saying so",
			raw(stored(0, "cpu", nil, nil, 0, "full_attention"), removed(0, "cpu"))),
		one("group of full attention, removed", raw(stored(0, "cpu", nil, nil, 0, "full_attention"), removed(0, "cpu", 0))),
		one("group of a sliding window: skipped", raw(stored(0, "cpu", nil, nil, 1, "sliding_window", 1024))),
		one("group with a block_size that does not fit: skipped",
			raw(list{wire.Stored, list{hashOf(1)}, nil, ints(1000, 64), 16, nil, "cpu", nil, nil, 0, "full_attention"})),
		one("group that is negative: refused", raw(stored(0, "cpu", nil, nil, -1, "full_attention"))),
	}
}

func extraKeyCases() []Accepted {
	asking := func(features ...[]string) func(*Accepted) {
		return func(question *Accepted) { question.Ask.Features, question.Ask.Count = features, 16*len(features) }
	}
	image := []string{"image"}
	return []Accepted{
		one("extra keys: nothing in them", raw(stored(0, "cpu", nil, list{nil}))),
		one("extra keys: numbers do not count", raw(stored(0, "cpu", nil, list{list{7, 8}}))),
		one("extra keys that are no array: refused", raw(stored(0, "cpu", nil, "image"))),
		one("extra keys whose entry is no array: refused", raw(stored(0, "cpu", nil, list{"image"}))),
		one("extra keys: one entry is for all of its tokens", raw(stored(0, "cpu", nil, list{list{"image"}}))).
			asking(asking(image, image, image, image)),
		one("extra keys: one entry does not match a prompt with them in one block",
			raw(stored(0, "cpu", nil, list{list{"image"}}))).asking(asking(image, nil, nil, nil)),
		one("extra keys: an entry for each of the router's blocks", raw(stored(0, "cpu", nil, list{list{"image"}, nil, nil, nil}))).
			asking(asking(image, nil, nil, nil)),
		one("extra keys: pairs of text and offset", raw(stored(0, "cpu", nil, list{list{list{"image", 3}}, nil, nil, nil}))).
			asking(asking(image, nil, nil, nil)),
		one("extra keys: an adapter's name in them makes it another block",
			raw(stored(0, "cpu", "sql", list{list{"sql"}}))).asking(func(question *Accepted) { question.Ask.Model = "sql" }),
		one("extra keys: a salt after the images", raw(stored(0, "cpu", nil, list{list{"image", "salt"}, nil, nil, nil}))).
			asking(asking([]string{"image", "salt"}, nil, nil, nil)),
		one("extra keys: a run of two, an entry for each of the router's blocks", raw(list{wire.Stored,
			list{hashOf(1), hashOf(2)}, nil, ints(1000, 128), 64, nil, "cpu", nil,
			list{list{"salt"}, nil, nil, nil, nil, list{list{"image", 3}}, list{list{"image", -13}}, nil}})).
			asking(asking([]string{"salt"}, nil, nil, nil, nil, image, image, nil)),
		one("extra keys: more entries than blocks", raw(stored(0, "cpu", nil,
			list{list{"a"}, list{"b"}, nil, nil, nil, nil, nil, list{"c"}}))).
			asking(asking([]string{"a", "b"}, nil, nil, []string{"c"})),
	}
}

func acceptedCases() []Accepted {
	var cases []Accepted
	for _, some := range [][]Accepted{fieldCases(), batchCases(), meaningCases(), extraKeyCases()} {
		cases = append(cases, some...)
	}
	file, err := wire.ReadGolden(goldenPath)
	if err != nil {
		panic(err)
	}
	for _, golden := range file.Cases {
		question := one("golden, "+string(golden.Encoding)+": "+golden.Name, golden.Payload)
		question.Messages[0].Topic = golden.Topic
		question.Ask.Model = "Qwen/Qwen3-32B"
		cases = append(cases, question)
	}
	return cases
}

// Asks what v0.10.0 was asked.
func answerOf(t *testing.T, question Accepted) Answer {
	t.Helper()
	router := newRouter(t)
	for _, message := range question.Messages {
		router.Ingest(message.Topic, message.Source, message.Payload)
	}
	ask := question.Ask
	pods := router.Ask(ask.Model, sequence(ask.First, ask.Count), ask.Features)
	return Answer{Refused: router.Counters().Refused, Pods: pods}
}

// The model has to answer as v0.10.0 did. Where the real one is there, it is asked once more.
func TestTheRouterAnswersAsV0100Did(t *testing.T) {
	kept, err := readAccepted(acceptedPath)
	if err != nil && !*update {
		t.Fatal(err)
	}
	answers := map[string]Accepted{}
	for _, question := range kept {
		answers[question.Name] = question
	}
	cases := acceptedCases()
	if *update {
		for i := range cases {
			if os.Getenv(routerVariable) != "" {
				answer := answerOf(t, cases[i])
				cases[i].Answer = &answer
			} else if known := answers[cases[i].Name]; sameQuestion(known, cases[i]) {
				cases[i].Answer = known.Answer
			}
		}
		if err := writeAccepted(acceptedPath, cases); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, question := range cases {
		t.Run(question.Name, func(t *testing.T) {
			known, isKnown := answers[question.Name]
			if !isKnown || !sameQuestion(known, question) || known.Answer == nil {
				t.Fatalf("%s has no answer to this question", acceptedPath)
			}
			got, want := text(answerOf(t, question)), text(*known.Answer)
			if got != want {
				t.Errorf("v0.10.0 answered %s, this one %s", want, got)
			}
			if wantsRefusal := strings.HasSuffix(question.Name, ": refused"); wantsRefusal != (known.Answer.Refused > 0) &&
				!strings.Contains(question.Name, "takes its batch along") {
				t.Errorf("%d refused", known.Answer.Refused)
			}
		})
	}
}

func sameQuestion(a, b Accepted) bool {
	return reflect.DeepEqual(a.Messages, b.Messages) && text(a.Ask) == text(b.Ask)
}

func text(value any) string {
	octets, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(octets)
}
