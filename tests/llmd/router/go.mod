module kvtier.test/llmd/router

go 1.26.6

// Versions are those that llm-d-router v0.10.0 itself is built with.
require (
	github.com/go-logr/logr v1.4.4
	github.com/llm-d/llm-d-router v0.10.0
	github.com/prometheus/client_golang v1.23.2
	github.com/prometheus/client_model v0.6.2
)
