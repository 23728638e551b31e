// The first program in Go: is this picture something that is enrolled? `search photo.jpg...`
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	matchpoint "matchpoint.dev/go/matchpoint/v1"
)

// Asked again where a replica ends or a server has no room, and never twice for what changes something.
const service = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"methodConfig": [{
		"name": [{"service": "matchpoint.v1.RetrievalService"}],
		"retryPolicy": {
			"maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}]
}`

// A server that the network cuts off is noticed within 15 seconds, and its calls are made again elsewhere.
var alive = keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}

// Longer than that.
const deadline = 20 * time.Second

// A key, sent with each call.
type key struct {
	value     string
	encrypted bool
}

func (k key) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + k.value}, nil
}

func (k key) RequireTransportSecurity() bool { return k.encrypted }

// connect takes the address, the key and the authorities from the variables that the commands take them from.
func connect() (*grpc.ClientConn, error) {
	server := os.Getenv("MATCHPOINT_SERVER")
	if server == "" {
		server = "http://127.0.0.1:50051"
	}
	scheme, address, _ := strings.Cut(server, "://")
	if scheme != "http" && scheme != "https" || address == "" {
		return nil, fmt.Errorf("MATCHPOINT_SERVER is %q; write http://HOST:PORT, or https://HOST:PORT", server)
	}
	options := []grpc.DialOption{grpc.WithDefaultServiceConfig(service), grpc.WithKeepaliveParams(alive)}
	if scheme == "https" {
		trusted, err := authorities(os.Getenv("MATCHPOINT_SERVER_CA"))
		if err != nil {
			return nil, err
		}
		encrypted := credentials.NewTLS(&tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12})
		options = append(options, grpc.WithTransportCredentials(encrypted))
	} else {
		options = append(options, grpc.WithInsecure())
	}
	if value := os.Getenv("MATCHPOINT_API_KEY"); value != "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		isHere := host == "localhost" || net.ParseIP(host).IsLoopback()
		if scheme != "https" && !isHere {
			return nil, fmt.Errorf("a key is not sent to %s unencrypted; write https://", host)
		}
		options = append(options, grpc.WithPerRPCCredentials(key{value, scheme == "https"}))
	}
	return grpc.Dial("dns:///"+address, options...)
}

// authorities are those of a PEM file, or of the system without one.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}

func search(retrieval matchpoint.RetrievalServiceClient, path string) error {
	image, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	found, err := retrieval.Search(ctx, &matchpoint.SearchRequest{
		Query: &matchpoint.SearchRequest_Image{Image: image},
		Limit: 3,
	})
	if err != nil {
		return err
	}
	label := "nothing that is enrolled"
	if found.Decision == matchpoint.Decision_DECISION_ACCEPT {
		label = found.GetDecidedLabel()
	}
	fmt.Printf("%s: %s %s\n", path, strings.TrimPrefix(found.Decision.String(), "DECISION_"), label)
	for _, match := range found.Matches {
		fmt.Printf("  %.4f %s\n", match.Score, match.Label)
	}
	return nil
}

// reason is the name of what went wrong, for programs.
func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: search PICTURE...\nThe server is that of MATCHPOINT_SERVER (http://127.0.0.1:50051 without it).")
		os.Exit(2)
	}
	connection, err := connect()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer connection.Close()
	retrieval := matchpoint.NewRetrievalServiceClient(connection)
	failed := false
	for _, path := range os.Args[1:] {
		if err := search(retrieval, path); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %s %v\n", path, reason(err), err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}
