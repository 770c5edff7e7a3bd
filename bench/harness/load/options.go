package load

import (
	"errors"
	"flag"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

type options struct {
	address              string // host:port
	streams              int
	rate                 float64
	measured, warm       time.Duration
	requests             int64
	tokens               int
	promptBytes, prompts int
	pids                 []int
	abortShare           float64
	slowShare            float64
	slowPause            time.Duration
	timeout, drain       time.Duration
	sources              int
	seed                 int64
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	target := flags.String("url", "http://127.0.0.1:8000", "the router")
	flags.IntVar(&o.streams, "streams", 32, "closed loop: requests in flight")
	flags.Float64Var(&o.rate, "rate", 0, "open loop: requests that arrive in a second, whatever becomes of the earlier ones; -streams is ignored")
	measured := flags.Float64("seconds", 8, "measured time")
	warm := flags.Float64("warm-seconds", 2, "time before it; the streams start spread over three quarters of it")
	flags.Int64Var(&o.requests, "requests", 0, "end after so many requests, all measured, instead of after a time")
	flags.IntVar(&o.tokens, "tokens", 64, "max_tokens asked for, and expected")
	flags.IntVar(&o.promptBytes, "prompt-bytes", 2048, "size of a prompt")
	flags.IntVar(&o.prompts, "prompts", 64, "distinct prompts")
	pids := flags.String("pid", "", "processes (commas) whose CPU and memory are told, with their descendants")
	flags.Float64Var(&o.abortShare, "abort", 0, "share of requests that the client leaves at a random moment, by FIN or RST")
	flags.Float64Var(&o.slowShare, "slow", 0, "share of requests whose client reads slowly through a small window")
	flags.DurationVar(&o.slowPause, "slow-pause", time.Millisecond, "pause of a slow client before every read")
	flags.DurationVar(&o.timeout, "timeout", time.Minute, "longest a request may take")
	flags.DurationVar(&o.drain, "drain", 20*time.Second, "how long to wait at the end for requests in flight")
	flags.IntVar(&o.sources, "sources", 8, "client addresses, 127.0.0.1 and on, for a target on loopback")
	flags.Int64Var(&o.seed, "seed", 1, "of prompts and of the choice of requests to leave or slow down")
	_ = flags.Parse(args)
	o.measured, o.warm = seconds(*measured), seconds(*warm)
	if o.requests > 0 {
		o.warm = 0
	}
	for _, text := range strings.FieldsFunc(*pids, func(r rune) bool { return r == ',' }) {
		pid, err := strconv.Atoi(text)
		if err != nil {
			return o, err
		}
		o.pids = append(o.pids, pid)
	}
	parsed, err := url.Parse(*target)
	if err != nil {
		return o, err
	}
	if parsed.Scheme != "http" || parsed.Port() == "" {
		return o, errors.New("-url must look like http://host:port")
	}
	o.address = parsed.Host
	if ip := net.ParseIP(parsed.Hostname()); ip == nil || !ip.IsLoopback() {
		o.sources = 0
	}
	return o, nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
