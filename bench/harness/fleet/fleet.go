// Package fleet stands for prefill and decode engines that speak vLLM's NIXL handshake, and checks how it is spoken.
//
// A prefill leg (stream false, max_tokens 1, do_remote_decode) is answered with kv_transfer_params; a decode leg must
// bring such parameters: issued here, for the same prompt, used once. GET /stats of an engine tells what was not so.
package fleet

import (
	"flag"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

const prefillRole, decodeRole = "prefill", "decode"

type options struct {
	tokenInterval, prefillTime time.Duration
	padBytes, dieAfterTokens   int
	free                       bool
}

type fleet struct {
	options  options
	handoffs *handoffs
	sequence atomic.Int64
}

// Main runs engines until one of them cannot listen or serve.
func Main(args []string) error {
	flags := flag.NewFlagSet("fleet", flag.ExitOnError)
	f := &fleet{handoffs: newHandoffs()}
	o := &f.options
	prefills := flags.String("prefill", "9101", "ports of the prefill engines, separated by commas")
	decodes := flags.String("decode", "9201", "ports of the decode engines")
	flags.DurationVar(&o.tokenInterval, "token-interval", 0, "time between two tokens")
	flags.DurationVar(&o.prefillTime, "prefill-time", 0, "time a prefill takes")
	flags.BoolVar(&o.free, "free", false, "every stream has its own clock, from its first token, which comes at once (default: all streams of an engine get their tokens in the same step, as with continuous batching)")
	flags.IntVar(&o.padBytes, "pad-bytes", 0, "added to every event, to fill socket buffers")
	flags.IntVar(&o.dieAfterTokens, "die-after-tokens", 0, "decode engines cut the connection after so many tokens")
	_ = flags.Parse(args)
	failed := make(chan error)
	for role, list := range map[string]string{prefillRole: *prefills, decodeRole: *decodes} {
		ports := strings.Split(list, ",")
		for i, port := range ports {
			phase := o.tokenInterval * time.Duration(i) / time.Duration(len(ports)) // engines do not step together
			e := &engine{role: role, port: port, start: time.Now().Add(-phase), fleet: f}
			go func() { failed <- http.ListenAndServe(net.JoinHostPort("127.0.0.1", e.port), e.handler()) }()
		}
	}
	return <-failed
}
