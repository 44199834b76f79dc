// Command kvt-router is llm-d's router as far as block events go, put together from its own packages: its sockets, its
// decoder, its counted removals, its index, its keys and its scores. It answers the questions that tests/llmd puts to its
// model of the router: one JSON object a line on standard input, one answer a line on standard output. What it hears and
// thinks of it is on standard error. It ends with its input.
//
// One process is one router with an empty index, so a router that begins anew is a new process.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

// request is one question. Which fields count depends on Do.
type request struct {
	Do string `json:"do"`
	// listen, dial: ZeroMQ endpoints; Pod is who is dialled, and whose stores are counted by "outstanding".
	Endpoint string `json:"endpoint"`
	Replay   string `json:"replay"`
	Pod      string `json:"pod"`
	// ingest: a message that comes without a socket.
	Topic   string `json:"topic"`
	Source  string `json:"source"`
	Payload []byte `json:"payload"`
	// ask, copies: a prompt. Features has what belongs to each of the router's blocks, or is nil.
	Model    string     `json:"model"`
	Tokens   []uint32   `json:"tokens"`
	Features [][]string `json:"features"`
}

func main() {
	weights := flag.String("weights", "{}", "the configured tiers and their weights, as a JSON object")
	flag.Parse()
	if err := serve(*weights, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(weights string, questions io.Reader, answers io.Writer) error {
	var tiers map[string]float64
	if err := json.Unmarshal([]byte(weights), &tiers); err != nil {
		return fmt.Errorf("weights: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	router, err := newRouter(ctx, tiers)
	if err != nil {
		return err
	}
	input, output := json.NewDecoder(questions), json.NewEncoder(answers)
	input.DisallowUnknownFields()
	for {
		var question request
		if err := input.Decode(&question); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("a question: %w", err)
		}
		answer, err := router.answer(question)
		if err != nil {
			answer = map[string]string{"error": err.Error()}
		}
		if err := output.Encode(answer); err != nil {
			return fmt.Errorf("an answer: %w", err)
		}
	}
}

func (router *router) answer(question request) (any, error) {
	done := struct{}{}
	switch question.Do {
	case "listen":
		return done, router.subscribe("", question.Endpoint, "", false)
	case "dial":
		return done, router.subscribe(question.Pod, question.Endpoint, question.Replay, true)
	case "stop":
		return done, router.unsubscribe()
	case "ingest":
		return done, router.ingest(question.Topic, question.Source, question.Payload)
	case "ask":
		return router.ask(question.Model, question.Tokens, question.Features)
	case "copies":
		return router.copies(question.Model, question.Tokens)
	case "counters":
		return router.watch.counters()
	case "outstanding":
		return outstanding(router.pool, question.Pod)
	default:
		return nil, fmt.Errorf("nobody knows how to %q", question.Do)
	}
}
