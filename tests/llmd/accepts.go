package llmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"kvtier.test/llmd/model"
	"kvtier.test/llmd/wire"
)

// Accepted is one question about what a router makes of messages, with the answer that v0.10.0 gave.
type Accepted struct {
	Name     string    `json:"name"`
	Messages []Message `json:"messages"`
	Ask      Ask       `json:"ask"`
	Answer   *Answer   `json:"answer"`
}

// Message is what crosses the wire, less its number.
type Message struct {
	Topic string `json:"topic"`
	// The dialled endpoint in per-pod mode; empty on a shared socket.
	Source  string    `json:"source,omitempty"`
	Payload wire.Hash `json:"payload"`
}

// Ask is a prompt: tokens First, First+1, and so on.
type Ask struct {
	Model string `json:"model"`
	First uint32 `json:"first"`
	Count int    `json:"count"`
	// What belongs to each of the router's blocks, if anything does.
	Features [][]string `json:"features,omitempty"`
}

// Answer is who has it.
type Answer struct {
	// Messages that were refused as a whole.
	Refused int                     `json:"refused"`
	Pods    map[string]model.Answer `json:"pods"`
}

func sequence(first uint32, count int) []uint32 {
	tokens := make([]uint32, count)
	for i := range tokens {
		tokens[i] = first + uint32(i) //nolint:gosec // short
	}
	return tokens
}

// AcceptedWeights are the tiers that these answers were given with.
func AcceptedWeights() map[string]float64 {
	return map[string]float64{"gpu": 1, "cpu": 0.8, "storage": 0.5}
}

func readAccepted(path string) ([]Accepted, error) {
	var cases []Accepted
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cases, nil
}

// Written one case a line, so that a changed answer is a changed line.
func writeAccepted(path string, cases []Accepted) error {
	var text bytes.Buffer
	text.WriteString("[\n")
	for i, one := range cases {
		line, err := json.Marshal(one)
		if err != nil {
			return err
		}
		text.Write(line)
		if i+1 < len(cases) {
			text.WriteByte(',')
		}
		text.WriteByte('\n')
	}
	text.WriteString("]\n")
	return os.WriteFile(path, text.Bytes(), 0o644) //nolint:gosec // a file of the repository
}
