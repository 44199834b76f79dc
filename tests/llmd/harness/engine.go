package harness

import (
	"fmt"
	"os/exec"
	"path/filepath"
)

// Engine is a process that stores and loads as it is told (`kvt-drive`).
type Engine struct{ *talker }

// EngineOptions say what it is.
type EngineOptions struct {
	Model, Pod string
	// Windows has one entry for each group: 0 attends to everything.
	Windows []uint32
	// BlockBytes are those of each block, BlockBytes of this package if it is 0. Engines that differ in it share nothing.
	BlockBytes int
}

// BlockTokens is how many tokens one of its blocks has.
const BlockTokens = 64

// Attach starts an engine of a node.
func (node *Node) Attach(options EngineOptions) *Engine {
	node.t.Helper()
	command := exec.Command(program(node.t, DriverVariable))
	engine := &Engine{startTalker(node.t, filepath.Join(node.t.TempDir(), "log"), command)}
	if options.Windows == nil {
		options.Windows = []uint32{0}
	}
	if options.BlockBytes == 0 {
		options.BlockBytes = BlockBytes
	}
	engine.ask(map[string]any{
		"do": "attach", "socket": node.Socket(), "model": options.Model, "pod": options.Pod,
		"tokens_per_block": BlockTokens, "block_bytes": options.BlockBytes, "windows": options.Windows,
	}, nil)
	return engine
}

// Sequence is a run of tokens: First, First+1, and so on.
type Sequence struct {
	First, Count uint32
	Lora         string
}

func (sequence Sequence) command(what string) map[string]any {
	command := map[string]any{"do": what, "first": sequence.First, "count": sequence.Count}
	if sequence.Lora != "" {
		command["lora"] = sequence.Lora
	}
	return command
}

// Tokens are the sequence's.
func (sequence Sequence) Tokens() []uint32 {
	tokens := make([]uint32, sequence.Count)
	for i := range tokens {
		tokens[i] = sequence.First + uint32(i) //nolint:gosec // short
	}
	return tokens
}

// Stored is what became of blocks that were to be stored.
type Stored struct{ Published, Present, Dropped int }

// Loaded is what a load found.
type Loaded struct {
	HitTokens int `json:"hit_tokens"`
	Leased    int `json:"leased"`
	Lost      int `json:"lost"`
}

// Store stores all whole blocks of a sequence.
func (engine *Engine) Store(sequence Sequence) Stored {
	engine.t.Helper()
	var stored Stored
	engine.ask(sequence.command("store"), &stored)
	return stored
}

// Load brings a sequence into memory.
func (engine *Engine) Load(sequence Sequence) Loaded {
	engine.t.Helper()
	var loaded Loaded
	engine.ask(sequence.command("load"), &loaded)
	return loaded
}

// Reset leaves the namespace.
func (engine *Engine) Reset() { engine.t.Helper(); engine.ask(map[string]any{"do": "reset"}, nil) }

// Detach says good-bye.
func (engine *Engine) Detach() { engine.t.Helper(); engine.ask(map[string]any{"do": "detach"}, nil) }

// Settle waits until everything that was stored is on NVMe.
func (engine *Engine) Settle() {
	engine.t.Helper()
	Eventually(engine.t, "all is written to NVMe", func() string {
		var counters struct {
			Occupancy struct {
				Queue   int `json:"nvme_queue"`
				Writing int `json:"nvme_writes_in_flight"`
			} `json:"occupancy"`
			Nvme []struct {
				State string `json:"state"`
			} `json:"nvme"`
		}
		engine.ask(map[string]any{"do": "counters"}, &counters)
		for _, device := range counters.Nvme {
			if device.State == "loading" {
				return "it is being loaded"
			}
		}
		if counters.Occupancy.Queue+counters.Occupancy.Writing > 0 {
			return fmt.Sprintf("%+v", counters.Occupancy)
		}
		return ""
	})
}
