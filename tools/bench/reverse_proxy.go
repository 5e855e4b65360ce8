// The reverse proxy of Go's standard library over some backends in turn, and nothing else: what
// routers for llama-server that are written in Go stand on. Each piece is passed on when it comes,
// connections to backends are kept. Like those, it reads a request whole before it passes it on.
//
//	reverse_proxy -listen 127.0.0.1:8080 127.0.0.1:8081 [127.0.0.1:8082 ...]
package main

import (
	"bytes"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
	"time"
)

const maxBody = 64 << 20 // bytes

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address and port to listen on")
	flag.Parse()
	backends := flag.Args()
	if len(backends) == 0 {
		log.Fatal("name at least one backend as ADDRESS:PORT")
	}

	var asked uint64
	proxy := &httputil.ReverseProxy{
		Director: func(request *http.Request) {
			number := atomic.AddUint64(&asked, 1)
			request.URL.Scheme = "http"
			request.URL.Host = backends[number%uint64(len(backends))]
		},
		FlushInterval: -1,
		Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			// The default of two for each backend would close most of them after each answer.
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     90 * time.Second,
			DisableCompression:  true,
		},
	}
	// An answer that begins while the request's end is still being read would be cut: the server
	// closes the request's body then, and the transport takes that for a failure.
	whole := func(writer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(writer, request.Body, maxBody))
		if err != nil {
			http.Error(writer, err.Error(), http.StatusBadRequest)
			return
		}
		request.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(writer, request)
	}
	server := &http.Server{
		Addr:              *listen,
		Handler:           http.HandlerFunc(whole),
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}
