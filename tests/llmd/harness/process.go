// Package harness starts what the tests look at: daemons, engines, an endpoint picker with pods behind it, and a
// publisher of our own. Everything is on loopback addresses, on ports that were free, and ends with its test.
package harness

import (
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Watchdog ends a test that would hang. Nothing takes nearly as long.
const Watchdog = time.Minute

// Eventually waits until look has nothing to object to, and says its last objection if that takes too long.
func Eventually(t testing.TB, what string, look func() string) {
	t.Helper()
	deadline := time.Now().Add(Watchdog)
	for {
		objection := look()
		if objection == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited too long: %s: %s", what, objection)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// FreePort is one that nobody listens on at a loopback address. Someone else may take it before it is used; nobody here
// does, because each is given out once.
func FreePort(t testing.TB, address string) int {
	t.Helper()
	given.Lock()
	defer given.Unlock()
	for {
		listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Fatal(err)
		}
		port := listener.Addr().(*net.TCPAddr).Port
		listener.Close()
		if !given.ports[port] {
			given.ports[port] = true
			return port
		}
	}
}

var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// Endpoint is a ZeroMQ address on a free port of 127.0.0.1.
func Endpoint(t testing.TB) string {
	return "tcp://127.0.0.1:" + strconv.Itoa(FreePort(t, "127.0.0.1"))
}

// Process is a running program. It is killed when its test ends, if it has not ended.
type Process struct {
	t       testing.TB
	command *exec.Cmd
	log     string
	ended   chan struct{}
}

// start runs a program whose standard error goes to a file, and whose death follows that of the test.
func start(t testing.TB, log string, command *exec.Cmd) *Process {
	t.Helper()
	file, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	command.Stderr = file
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	process := &Process{t: t, command: command, log: log, ended: make(chan struct{})}
	go func() {
		_ = command.Wait()
		close(process.ended)
	}()
	t.Cleanup(func() {
		process.Kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", command.Path, last(process.Log(), 60))
		}
	})
	return process
}

// Kill ends it with SIGKILL, and waits until it is gone.
func (process *Process) Kill() {
	_ = process.command.Process.Kill()
	process.await("it ends after SIGKILL")
}

// Stop ends it with SIGTERM, and waits until it is gone.
func (process *Process) Stop() {
	_ = process.command.Process.Signal(syscall.SIGTERM)
	process.await("it ends after SIGTERM")
}

func (process *Process) await(what string) {
	process.t.Helper()
	select {
	case <-process.ended:
	case <-time.After(Watchdog):
		process.t.Errorf("%s: waited too long: %s", process.command.Path, what)
	}
}

// HasEnded tells whether it is gone.
func (process *Process) HasEnded() bool {
	select {
	case <-process.ended:
		return true
	default:
		return false
	}
}

// Log is what it has said on standard error.
func (process *Process) Log() string {
	text, _ := os.ReadFile(process.log)
	return string(text)
}

// AwaitLog waits until it has said something.
func (process *Process) AwaitLog(words string) {
	process.t.Helper()
	Eventually(process.t, process.command.Path+" says "+strconv.Quote(words), func() string {
		if process.HasEnded() {
			process.t.Fatalf("%s ended:\n%s", process.command.Path, last(process.Log(), 30))
		}
		if !strings.Contains(process.Log(), words) {
			return "it has not"
		}
		return ""
	})
}

func last(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
