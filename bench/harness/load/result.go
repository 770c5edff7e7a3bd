package load

import (
	"time"

	"harness/histogram"
	"harness/process"
)

// result is what a run prints. Errors are counted over the whole run, warm-up and end included, all else over the
// measured time. CPU per request is CPU per token times the tokens of a request: the edges of the time do not matter.
type result struct {
	Seconds           float64           `json:"seconds"`
	Requests          int64             `json:"requests"`
	Tokens            int64             `json:"tokens"`
	TokensPerSecond   float64           `json:"tokens_per_s"`
	Errors            int64             `json:"errors"`
	FirstError        string            `json:"first_error"`
	Left              int64             `json:"left"`
	Unfinished        int64             `json:"unfinished"`
	TTFT              histogram.Summary `json:"ttft"`
	InterToken        histogram.Summary `json:"inter_token"`
	Latency           histogram.Summary `json:"latency"`
	CPUCores          float64           `json:"cpu_cores"`
	CPUUsPerToken     float64           `json:"cpu_us_per_token"`
	CPUUsPerRequest   float64           `json:"cpu_us_per_request"`
	RSSBytes          int64             `json:"rss_bytes"`
	LoadCPUCores      float64           `json:"load_cpu_cores"`
	ConnectionsDialed int64             `json:"connections_dialled"`
}

func (l *load) result(elapsed time.Duration, before, after process.Usage, selfSeconds float64) result {
	cpu := after.CPUSeconds - before.CPUSeconds
	r := result{
		Seconds: elapsed.Seconds(), Requests: l.requests.Load(), Tokens: l.tokens.Load(), Errors: l.errors.Load(),
		FirstError: l.firstFault(), Left: l.left.Load(), Unfinished: l.inFlight.Load(),
		TTFT: l.ttft.Summary(), InterToken: l.interToken.Summary(), Latency: l.latency.Summary(),
		CPUCores: cpu / elapsed.Seconds(), RSSBytes: after.RSSBytes, LoadCPUCores: selfSeconds / elapsed.Seconds(),
		ConnectionsDialed: l.connections.dialled.Load(),
	}
	r.TokensPerSecond = float64(r.Tokens) / r.Seconds
	if r.Tokens > 0 {
		r.CPUUsPerToken = 1e6 * cpu / float64(r.Tokens)
		r.CPUUsPerRequest = r.CPUUsPerToken * float64(l.options.tokens)
	}
	return r
}

func (l *load) firstFault() string {
	l.faultOnce.Do(func() {}) // a fault being written is complete after this
	return l.fault
}
