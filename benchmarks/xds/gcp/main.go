// An xDS server made of go-control-plane as its documentation shows it, driven over standard input for the benchmark.
//
// It loads the very resources that Serinus serves, so that both send the same bytes. Every node is sent the same, from
// one SnapshotCache or from one LinearCache a type. Each line read is a command, each line written its answer.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/config"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
)

// Envoys of the benchmark are all alike.
const everyone = "everyone"

type everyNode struct{}

func (everyNode) ID(*core.Node) string { return everyone }

// What Serinus wrote for us: messages without the Any around them.
type dump struct {
	Resources map[string][]encoded `json:"resources"`
	// Each changes one route configuration; they are published in turn, again and again.
	Pushes []encoded `json:"pushes"`
}

type encoded struct {
	Name    string `json:"name"`
	Message []byte `json:"message"`
}

var kinds = map[string]struct {
	url   resource.Type
	index types.ResponseType
	empty func() types.Resource
}{
	"CDS":  {resource.ClusterType, types.Cluster, func() types.Resource { return &cluster.Cluster{} }},
	"EDS":  {resource.EndpointType, types.Endpoint, func() types.Resource { return &endpoint.ClusterLoadAssignment{} }},
	"LDS":  {resource.ListenerType, types.Listener, func() types.Resource { return &listener.Listener{} }},
	"SRDS": {resource.ScopedRouteType, types.ScopedRoute, func() types.Resource { return &route.ScopedRouteConfiguration{} }},
	"RDS":  {resource.RouteType, types.Route, func() types.Resource { return &route.RouteConfiguration{} }},
}

func decode(kind string, one encoded) (types.Resource, error) {
	message := kinds[kind].empty()
	if err := proto.Unmarshal(one.Message, message); err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind, one.Name, err)
	}
	return message, nil
}

func load(path string) (*dump, map[string][]types.Resource, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	var read dump
	if err := json.Unmarshal(content, &read); err != nil {
		return nil, nil, err
	}
	resources := map[string][]types.Resource{}
	for kind, all := range read.Resources {
		for _, one := range all {
			message, err := decode(kind, one)
			if err != nil {
				return nil, nil, err
			}
			resources[kind] = append(resources[kind], message)
		}
	}
	return &read, resources, nil
}

// A source is a cache with its way to change one route configuration.
type source interface {
	cache.Cache
	publish(changed types.Resource) error
}

// --- One snapshot for everybody ---

type snapshotSource struct {
	cache.SnapshotCache
	current *cache.Snapshot
	n       int
}

func newSnapshotSource(resources map[string][]types.Resource) (*snapshotSource, error) {
	made := &snapshotSource{SnapshotCache: cache.NewSnapshotCache(true, everyNode{}, nil), current: &cache.Snapshot{}}
	for kind, messages := range resources {
		made.current.Resources[kinds[kind].index] = cache.NewResources("0", messages)
	}
	if err := made.current.Consistent(); err != nil {
		return nil, err
	}
	return made, made.SetSnapshot(context.Background(), everyone, made.current)
}

func (s *snapshotSource) publish(changed types.Resource) error {
	s.n++
	before := s.current.Resources[types.Route].Items
	items := make(map[string]types.ResourceWithTTL, len(before))
	for name, item := range before {
		items[name] = item
	}
	items[cache.GetResourceName(changed)] = types.ResourceWithTTL{Resource: changed}
	// Only the version of what has changed is new: else every type would be sent again (state of the world).
	next := &cache.Snapshot{Resources: s.current.Resources}
	next.Resources[types.Route] = cache.Resources{Version: strconv.Itoa(s.n), Items: items}
	s.current = next
	return s.SetSnapshot(context.Background(), everyone, next)
}

// --- One linear cache a type ---

type linearSource struct {
	cache.MuxCache
	routes *cache.LinearCache
}

func newLinearSource(resources map[string][]types.Resource) *linearSource {
	made := &linearSource{MuxCache: cache.MuxCache{
		Classify:      func(request *cache.Request) string { return request.GetTypeUrl() },
		ClassifyDelta: func(request *cache.DeltaRequest) string { return request.GetTypeUrl() },
		Caches:        map[string]cache.Cache{},
	}}
	for kind, messages := range resources {
		linear := cache.NewLinearCache(kinds[kind].url, cache.WithInitialResources(cache.IndexRawResourcesByName(messages)))
		made.Caches[kinds[kind].url] = linear
		if kind == "RDS" {
			made.routes = linear
		}
	}
	return made
}

func (s *linearSource) publish(changed types.Resource) error {
	return s.routes.UpdateResource(cache.GetResourceName(changed), changed)
}

// --- What is measured ---

func monotonicNs() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		log.Fatal(err)
	}
	return now.Nano()
}

func cpuUs() int64 {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		log.Fatal(err)
	}
	return (used.Utime.Nano() + used.Stime.Nano()) / 1000
}

func rssBytes() int64 {
	content, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		log.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(content))[1], 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// meter counts ACKs, and notes when the last one that is waited for has come.
type meter struct {
	acks    atomic.Int64
	wanted  atomic.Int64
	ackedNs atomic.Int64
	done    chan struct{}
}

func (m *meter) arm(wanted int64) {
	m.done = make(chan struct{})
	m.ackedNs.Store(0)
	m.acks.Store(0)
	m.wanted.Store(wanted)
}

func (m *meter) seen(nonce string, isNack bool) {
	if nonce == "" || isNack {
		return
	}
	if m.acks.Add(1) == m.wanted.Load() {
		m.ackedNs.Store(monotonicNs())
		close(m.done)
	}
}

func (m *meter) callbacks() server.Callbacks {
	return server.CallbackFuncs{
		StreamRequestFunc: func(_ int64, request *discovery.DiscoveryRequest) error {
			m.seen(request.GetResponseNonce(), request.GetErrorDetail() != nil)
			return nil
		},
		StreamDeltaRequestFunc: func(_ int64, request *discovery.DeltaDiscoveryRequest) error {
			m.seen(request.GetResponseNonce(), request.GetErrorDetail() != nil)
			return nil
		},
	}
}

// --- Commands ---

type command struct {
	Do        string  `json:"do"`
	Acks      int64   `json:"acks"`
	DeadlineS float64 `json:"deadline_s"`
}

type control struct {
	source source
	pushes []encoded
	meter  *meter
	next   int
}

func (c *control) publish(asked command) (map[string]any, error) {
	push := c.pushes[c.next%len(c.pushes)]
	c.next++
	c.meter.arm(asked.Acks)
	cpuBefore := cpuUs()
	started := monotonicNs()
	changed, err := decode("RDS", push) // stands for building it
	if err != nil {
		return nil, err
	}
	if err := c.source.publish(changed); err != nil {
		return nil, err
	}
	published := monotonicNs()
	select {
	case <-c.meter.done:
	case <-time.After(time.Duration(asked.DeadlineS * float64(time.Second))):
	}
	time.Sleep(50 * time.Millisecond) // what follows an ACK belongs to the push as well
	return map[string]any{
		"started_ns":   started,
		"published_ns": published,
		"acked_ns":     c.meter.ackedNs.Load(),
		"acks":         c.meter.acks.Load(),
		"cpu_us":       cpuUs() - cpuBefore,
	}, nil
}

func (c *control) run(asked command) (map[string]any, error) {
	switch asked.Do {
	case "publish":
		return c.publish(asked)
	case "usage":
		return map[string]any{"cpu_us": cpuUs(), "rss_bytes": rssBytes()}, nil
	case "probe":
		return map[string]any{}, nil
	case "stall":
		return map[string]any{"stall_ms": nil}, nil // there is no event loop
	default:
		return nil, fmt.Errorf("unknown command %q", asked.Do)
	}
}

func (c *control) serve() error {
	lines := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked command
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			return err
		}
		answer, err := c.run(asked)
		if err != nil {
			return err
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

// --- Start ---

func run() error {
	path := flag.String("resources", "", "file that Serinus's side has written")
	kind := flag.String("cache", "snapshot", "snapshot or linear")
	flag.Parse()
	read, resources, err := load(*path)
	if err != nil {
		return err
	}
	var from source
	switch *kind {
	case "snapshot":
		from, err = newSnapshotSource(resources)
	case "linear":
		from = newLinearSource(resources)
	default:
		err = fmt.Errorf("unknown cache %q", *kind)
	}
	if err != nil {
		return err
	}
	counted := &meter{done: make(chan struct{})}
	options := []config.XDSOption{sotw.WithOrderedADS()}
	xds := server.NewServer(context.Background(), from, counted.callbacks(), options...)
	// As in its own example (internal/example/server.go), but for a MinTime that suits Envoy's keepalive.
	grpcServer := grpc.NewServer(
		grpc.MaxConcurrentStreams(1_000_000),
		grpc.MaxRecvMsgSize(32<<20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, xds)
	listening, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		if err := grpcServer.Serve(listening); err != nil {
			log.Fatal(err)
		}
	}()
	port := listening.Addr().(*net.TCPAddr).Port
	if err := json.NewEncoder(os.Stdout).Encode(map[string]any{"port": port}); err != nil {
		return err
	}
	ctl := &control{source: from, pushes: slices.Clone(read.Pushes), meter: counted}
	return ctl.serve()
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
