package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extproc "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// DestinationHeader is how the picker tells a proxy where to send a request.
const DestinationHeader = "x-gateway-destination-endpoint"

// Pod is an engine as a router sees it: an address that answers.
type Pod struct {
	Name, Address string
	Port          int
}

// Endpoint is what a router calls it by.
func (pod Pod) Endpoint() string { return net.JoinHostPort(pod.Address, strconv.Itoa(pod.Port)) }

// ServePod answers completions with its own name, and says in its metrics that it has nothing to do.
func ServePod(t testing.TB, name, address string) Pod {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	paths := http.NewServeMux()
	paths.HandleFunc("POST /v1/completions", func(response http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(response, `{"object":"text_completion","choices":[{"text":%q}]}`, name)
	})
	paths.HandleFunc("GET /metrics", func(response http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(response, "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting 0\n"+
			"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 0\n"+
			"# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc 0\n")
	})
	server := &http.Server{Handler: paths, ReadHeaderTimeout: Watchdog}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	return Pod{Name: name, Address: address, Port: listener.Addr().(*net.TCPAddr).Port}
}

// Picker is the router's endpoint picker, and a connection to it such as Envoy has.
type Picker struct {
	*Process
	connection *grpc.ClientConn
}

// StartPicker runs the program over these pods. events is its kvEventsConfig, as YAML of one line.
func StartPicker(t testing.TB, program string, pods []Pod, events string) *Picker {
	t.Helper()
	directory := t.TempDir()
	var list strings.Builder
	list.WriteString("endpoints:\n")
	for _, pod := range pods {
		fmt.Fprintf(&list, "- {name: %s, address: %s, port: %q}\n", pod.Name, pod.Address, strconv.Itoa(pod.Port))
	}
	endpoints, config := filepath.Join(directory, "endpoints.yaml"), filepath.Join(directory, "config.yaml")
	text := fmt.Sprintf(pickerConfig, endpoints, events)
	for path, text := range map[string]string{endpoints: list.String(), config: text} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port, health := FreePort(t, "127.0.0.1"), FreePort(t, "127.0.0.1")
	command := exec.Command(program, "--config-file", config, "--secure-serving=false", "--tracing=false",
		"--metrics-endpoint-auth=false", "--enable-pprof=false", "--drain-timeout=0s", "--pool-name=test", "--pool-namespace=test",
		"--grpc-port", strconv.Itoa(port), "--grpc-health-port", strconv.Itoa(health),
		"--metrics-port", strconv.Itoa(FreePort(t, "127.0.0.1")), "--v=3")
	picker := &Picker{Process: start(t, filepath.Join(directory, "log"), command)}
	connection, err := grpc.NewClient("127.0.0.1:"+strconv.Itoa(port), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	picker.connection = connection
	picker.awaitHealth(health)
	return picker
}

// Nothing but the prefix decides, so that an answer is about our events and nothing else.
const pickerConfig = `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {name: pods, type: file-discovery, parameters: {path: %s}}
- {type: token-producer}
- {type: endpoint-notification-source}
- {type: metrics-data-source}
- {type: core-metrics-extractor}
- type: precise-prefix-cache-producer
  parameters:
    tokenProcessorConfig: {blockSizeTokens: 16}
    indexerConfig:
      kvBlockIndexConfig: {inMemoryConfig: {size: 100000, podCacheSize: 32}}
      kvCacheBackendConfigs: [{name: gpu, weight: 1.0}, {name: cpu, weight: 0.8}, {name: storage, weight: 0.5}]
    kvEventsConfig: %s
- {type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: precise-prefix-cache-producer}}
- {type: max-score-picker}
- {type: single-profile-handler}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: prefix-cache-scorer, weight: 1}
  - {pluginRef: max-score-picker}
dataLayer:
  discovery: {pluginRef: pods}
  sources:
  - {pluginRef: metrics-data-source, extractors: [{pluginRef: core-metrics-extractor}]}
  - {pluginRef: endpoint-notification-source, extractors: [{pluginRef: precise-prefix-cache-producer}]}
`

func (picker *Picker) awaitHealth(port int) {
	picker.t.Helper()
	connection, err := grpc.NewClient("127.0.0.1:"+strconv.Itoa(port), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		picker.t.Fatal(err)
	}
	defer connection.Close()
	Eventually(picker.t, "the endpoint picker serves", func() string {
		if picker.HasEnded() {
			picker.t.Fatalf("the endpoint picker ended:\n%s", last(picker.Log(), 30))
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		answer, err := grpc_health_v1.NewHealthClient(connection).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			return err.Error()
		}
		if answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			return answer.GetStatus().String()
		}
		return ""
	})
}

// Pick asks where a completion of these tokens shall go, as Envoy does: headers, then the body.
func (picker *Picker) Pick(model string, tokens []uint32) (string, error) {
	body, err := json.Marshal(map[string]any{"model": model, "prompt": tokens, "max_tokens": 1})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), Watchdog)
	defer cancel()
	stream, err := extproc.NewExternalProcessorClient(picker.connection).Process(ctx)
	if err != nil {
		return "", err
	}
	for _, request := range []*extproc.ProcessingRequest{
		{Request: &extproc.ProcessingRequest_RequestHeaders{RequestHeaders: &extproc.HttpHeaders{Headers: headers(
			":method", "POST", ":path", "/v1/completions", ":scheme", "http", ":authority", "router",
			"content-type", "application/json", "content-length", strconv.Itoa(len(body)), "x-request-id", "test")}}},
		{Request: &extproc.ProcessingRequest_RequestBody{RequestBody: &extproc.HttpBody{Body: body, EndOfStream: true}}},
	} {
		if err := stream.Send(request); err != nil {
			return "", err
		}
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			return "", err
		}
		if refusal := answer.GetImmediateResponse(); refusal != nil {
			return "", fmt.Errorf("refused with %v: %s %s", refusal.GetStatus().GetCode(), refusal.GetDetails(), refusal.GetBody())
		}
		for _, common := range []*extproc.CommonResponse{
			answer.GetRequestHeaders().GetResponse(), answer.GetRequestBody().GetResponse(),
		} {
			for _, option := range common.GetHeaderMutation().GetSetHeaders() {
				if option.GetHeader().GetKey() == DestinationHeader {
					return string(option.GetHeader().GetRawValue()), nil
				}
			}
		}
	}
}

func headers(pairs ...string) *corev3.HeaderMap {
	var all corev3.HeaderMap
	for i := 0; i < len(pairs); i += 2 {
		all.Headers = append(all.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return &all
}
