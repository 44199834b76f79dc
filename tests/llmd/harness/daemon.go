package harness

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// DaemonVariable and DriverVariable name the programs under test.
const (
	DaemonVariable = "KVTIERD"
	DriverVariable = "KVTIER_DRIVE"
)

// HostBlocks is about how many blocks of BlockBytes the memory of a daemon here has room for.
const (
	BlockBytes = 256 << 10
	HostBlocks = 31
)

// Node is a place for a daemon: its socket and its NVMe directory outlive it.
type Node struct {
	t         testing.TB
	directory string
	starts    int
	// Settings of the daemon that is started next, by configuration key.
	Settings map[string]string
}

// NewNode has a memory of 8 MiB and an NVMe directory of 96 MiB. It is on the file system of the build or of the cache: a
// directory for temporary files may be memory.
func NewNode(t testing.TB, settings map[string]string) *Node {
	t.Helper()
	base := os.Getenv("KVTIER_LLMD_SCRATCH")
	directory, err := os.MkdirTemp(base, "llmd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	return &Node{t: t, directory: directory, Settings: settings}
}

// Socket is where its daemon listens.
func (node *Node) Socket() string { return filepath.Join(node.directory, "kvtier.sock") }

// Start runs a daemon and waits until it serves.
func (node *Node) Start() *Process {
	node.t.Helper()
	settings := map[string]string{
		"socket": node.Socket(), "host.capacity": "8MiB", "nvme.directories": filepath.Join(node.directory, "nvme"),
		"nvme.capacity": "96MiB", "nvme.segment-bytes": "4MiB",
		// A busy machine must not make a miss of what is there.
		"nvme.promotion-deadline": "30s",
	}
	maps.Copy(settings, node.Settings)
	node.starts++
	command := exec.Command(program(node.t, DaemonVariable))
	command.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "KVTIER_")
	})
	for key, value := range settings {
		variable := "KVTIER_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
		command.Env = append(command.Env, variable+"="+value)
	}
	daemon := start(node.t, filepath.Join(node.directory, "log."+string(rune('0'+node.starts))), command)
	daemon.AwaitLog("serving")
	return daemon
}

// Namespaces are those that have blocks.
func (node *Node) Namespaces() []string {
	node.t.Helper()
	var listed struct {
		Namespaces []struct {
			Namespace string `json:"namespace"`
		} `json:"namespaces"`
	}
	if err := json.Unmarshal(node.kvtier("namespaces", "--json"), &listed); err != nil {
		node.t.Fatal(err)
	}
	var names []string
	for _, namespace := range listed.Namespaces {
		names = append(names, namespace.Namespace)
	}
	return names
}

// Evict lets all blocks of a namespace leave.
func (node *Node) Evict(namespace string) {
	node.t.Helper()
	node.kvtier("evict", "--namespace", namespace)
}

// kvtier is the command beside the daemon's program.
func (node *Node) kvtier(arguments ...string) []byte {
	node.t.Helper()
	path := filepath.Join(filepath.Dir(program(node.t, DaemonVariable)), "kvtier")
	admin := filepath.Join(node.directory, "kvtier-admin.sock")
	command := exec.Command(path, append(arguments, "--socket", admin)...)
	var complaint strings.Builder
	command.Stderr = &complaint
	output, err := command.Output()
	if err != nil {
		node.t.Fatalf("kvtier %v: %v: %s", arguments, err, complaint.String())
	}
	return output
}

func program(t testing.TB, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Fatalf("%s does not name the program: scripts/llmd.sh builds it and runs these tests", variable)
	}
	return path
}
