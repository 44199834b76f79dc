package harness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os/exec"
	"testing"
	"time"
)

// talker is a program that is asked one JSON object a line, and answers in kind: {"error": ...} if it could not.
type talker struct {
	*Process
	questions io.WriteCloser
	answers   chan []byte
}

const longestAnswer = 1 << 20

func startTalker(t testing.TB, log string, command *exec.Cmd) *talker {
	t.Helper()
	questions, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	talker := &talker{Process: start(t, log, command), questions: questions, answers: make(chan []byte)}
	go func() {
		lines := bufio.NewScanner(output)
		lines.Buffer(nil, longestAnswer)
		for lines.Scan() {
			talker.answers <- bytes.Clone(lines.Bytes())
		}
		close(talker.answers)
	}()
	return talker
}

// ask waits for the answer, and reads it unless answer is nil.
func (talker *talker) ask(question map[string]any, answer any) {
	talker.t.Helper()
	line, err := json.Marshal(question)
	if err != nil {
		talker.t.Fatal(err)
	}
	if _, err := talker.questions.Write(append(line, '\n')); err != nil {
		talker.t.Fatal(err)
	}
	select {
	case text, isOpen := <-talker.answers:
		var failure struct {
			Error string `json:"error"`
		}
		// What is no object has no error in it.
		_ = json.Unmarshal(text, &failure)
		if !isOpen || failure.Error != "" {
			talker.t.Fatalf("%s: %q", line, text)
		}
		if answer == nil {
			return
		}
		if err := json.Unmarshal(text, answer); err != nil {
			talker.t.Fatalf("%s: %s: %v", line, text, err)
		}
	case <-time.After(2 * Watchdog):
		talker.t.Fatalf("%s: no answer", line)
	}
}
