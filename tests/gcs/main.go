// fake-gcs-server with the one request of Google's XML API that it lacks and that kvtier writes with: a plain PUT of an object.
//
// Everything is kept in memory, in one bucket. The address it listens at is its output's first line, and it ends when its input does.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

const bucket = "kvtier"

// stored is what the server says of an object that it has taken.
type stored struct {
	Generation string `json:"generation"`
	Etag       string `json:"etag"`
}

// putting makes an upload of the JSON API of a PUT of the XML API, with its precondition. What becomes of it the server decides.
type putting struct{ server http.Handler }

func (p putting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, object, found := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	if r.Method != http.MethodPut || r.URL.RawQuery != "" || !found {
		p.server.ServeHTTP(w, r)
		return
	}
	object, err := url.PathUnescape(object)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	query := url.Values{"uploadType": {"media"}, "name": {object}}
	if generation := r.Header.Get("x-goog-if-generation-match"); generation != "" {
		query.Set("ifGenerationMatch", generation)
	}
	upload := r.Clone(r.Context())
	upload.Method = http.MethodPost
	upload.URL = &url.URL{Path: "/upload/storage/v1/b/" + name + "/o", RawQuery: query.Encode()}
	upload.RequestURI = upload.URL.RequestURI()
	answer := httptest.NewRecorder()
	p.server.ServeHTTP(answer, upload)
	if answer.Code != http.StatusOK {
		w.WriteHeader(answer.Code)
		_, _ = io.Copy(w, answer.Body)
		return
	}
	var of stored
	if err := json.NewDecoder(bytes.NewReader(answer.Body.Bytes())).Decode(&of); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("ETag", `"`+of.Etag+`"`)
	w.Header().Set("x-goog-generation", of.Generation)
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	// The XML API is served under this name only, port and all.
	host := listener.Addr().String()
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{NoListener: true, Scheme: "http", PublicHost: host})
	if err != nil {
		log.Fatal(err)
	}
	server.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: bucket})
	fmt.Printf("http://%s %s\n", host, bucket)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal(http.Serve(listener, putting{server.HTTPHandler()}))
}
