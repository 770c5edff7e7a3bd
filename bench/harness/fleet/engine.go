package fleet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	model    = "mock"
	bodyKind = "application/json"
)

// engine is one vLLM with the NIXL connector, as far as a router can see.
type engine struct {
	role  string
	port  string
	start time.Time // engine steps are counted from here
	fleet *fleet

	served, running, aborted, rejected atomic.Int64
	direct, badPrefill, badHandoff     atomic.Int64
	givenBack                          atomic.Int64
}

// stats is what GET /stats answers. Held are the handoffs of the whole fleet that nobody used or gave back.
type stats struct {
	Role       string `json:"role"`
	Served     int64  `json:"served"`
	Running    int64  `json:"running"`
	Aborted    int64  `json:"aborted"`
	Direct     int64  `json:"direct"`
	Rejected   int64  `json:"rejected"`
	BadPrefill int64  `json:"bad_prefill"`
	BadHandoff int64  `json:"bad_handoff"`
	GivenBack  int64  `json:"given_back"`
	Held       int    `json:"held"`
}

func (e *engine) handler() http.Handler {
	mux := http.NewServeMux()
	info := `{"model_path":"mock","tp_size":1,"dp_size":1,"version":"0.32.0","is_generation":true}`
	fixed := map[string]string{
		"/health": "", "/version": `{"version":"0.32.0"}`,
		"/server_info": info, "/get_server_info": info, "/model_info": info, "/get_model_info": info,
		"/v1/models": `{"object":"list","data":[{"id":"mock","object":"model","created":1700000000,"owned_by":"vllm","root":"mock","parent":null,"max_model_len":131072}]}`,
	}
	for path, body := range fixed {
		body := body
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, body) })
	}
	mux.HandleFunc("/load", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, fmt.Sprintf(`{"server_load":%d}`, e.running.Load()))
	})
	mux.HandleFunc("/metrics", e.metrics)
	mux.HandleFunc("/stats", e.stats)
	mux.HandleFunc("/v1/chat/completions", e.complete)
	return mux
}

func (e *engine) metrics(w http.ResponseWriter, _ *http.Request) {
	const line = "# TYPE vllm:%s gauge\nvllm:%[1]s{engine=\"0\",model_name=\"mock\"} %d\n"
	fmt.Fprintf(w, line, "num_requests_running", e.running.Load())
	fmt.Fprintf(w, line, "num_requests_waiting", 0)
	fmt.Fprintf(w, line, "kv_cache_usage_perc", 0)
}

func (e *engine) stats(w http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(w).Encode(stats{
		Role: e.role, Served: e.served.Load(), Running: e.running.Load(), Aborted: e.aborted.Load(), Direct: e.direct.Load(),
		Rejected: e.rejected.Load(), BadPrefill: e.badPrefill.Load(), BadHandoff: e.badHandoff.Load(),
		GivenBack: e.givenBack.Load(), Held: e.fleet.handoffs.held(),
	})
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func (e *engine) complete(w http.ResponseWriter, r *http.Request) {
	e.running.Add(1)
	defer e.running.Add(-1)
	request, err := read(r.Body)
	if err != nil {
		e.aborted.Add(1)
		return
	}
	transfer := parseMembers(request["kv_transfer_params"])
	switch {
	case request.text("model") != model: // vLLM tells the prefill engine when it refuses after validation
		e.rejected.Add(1)
		if transfer.is("do_remote_prefill", "true") {
			e.givenBack.Add(1)
			e.fleet.handoffs.giveBack(transfer.text("remote_request_id"))
		}
		reply(w, http.StatusNotFound, `{"error":{"message":"The model does not exist.","type":"NotFoundError","param":"model","code":404}}`)
	case e.role == prefillRole || transfer.is("do_remote_decode", "true"):
		e.prefill(w, r, request, transfer)
	default:
		e.decode(w, r, request, transfer)
	}
}

// read takes a whole body; the members are copies, the buffer is used again.
func read(body io.Reader) (members, error) {
	buffer := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buffer)
	buffer.Reset()
	if _, err := buffer.ReadFrom(body); err != nil {
		return nil, err
	}
	found := parseMembers(buffer.Bytes())
	for key, value := range found {
		found[key] = append([]byte(nil), value...)
	}
	return found, nil
}

func (e *engine) prefill(w http.ResponseWriter, r *http.Request, request, transfer members) {
	if !wait(r.Context(), time.Now().Add(e.fleet.options.prefillTime)) {
		e.aborted.Add(1)
		return
	}
	e.served.Add(1)
	id := fmt.Sprintf("chatcmpl-%s-%d", e.port, e.fleet.sequence.Add(1))
	if request.is("stream", "true") || !request.is("max_tokens", "1") || !transfer.is("do_remote_decode", "true") {
		e.badPrefill.Add(1)
	} else {
		e.fleet.handoffs.issue(id, request)
	}
	tokens := len(request["messages"])/4 + 1
	reply(w, http.StatusOK, fmt.Sprintf(`{"id":"%s","object":"chat.completion","created":1700000000,"model":"mock","choices":[{"index":0,"message":{"role":"assistant","content":" x"},"logprobs":null,"finish_reason":"length"}],`+
		`"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":1},"kv_transfer_params":{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[1,2,3,4,5,6,7,8]],"remote_engine_id":"engine-%s",`+
		`"remote_request_id":"%[1]s","remote_host":"127.0.0.1","remote_port":5600,"tp_size":1,"dcp_size":1,"pp_size":1,"remote_num_tokens":%[2]d,"remote_blocks_expiry_time":null,"transfer_mode":"pull"}}`,
		id, tokens, tokens+1, e.port))
}

func (e *engine) decode(w http.ResponseWriter, r *http.Request, request, transfer members) {
	e.served.Add(1)
	if !transfer.is("do_remote_prefill", "true") {
		e.direct.Add(1)
	} else if e.fleet.handoffs.use(transfer.text("remote_request_id"), request) != good {
		e.badHandoff.Add(1)
	}
	answer := e.answer(request)
	var complete bool
	if request.is("stream", "true") {
		complete = answer.stream(r.Context(), w)
	} else if complete = wait(r.Context(), time.Now().Add(answer.interval*time.Duration(answer.tokens))); complete {
		reply(w, http.StatusOK, answer.whole())
	}
	if !complete {
		e.aborted.Add(1)
	}
}

func (e *engine) answer(request members) answer {
	tokens := 16
	for _, key := range []string{"max_tokens", "max_completion_tokens"} {
		if n, err := strconv.Atoi(string(request[key])); err == nil {
			tokens = n
		}
	}
	options := e.fleet.options
	a := answer{
		id: e.fleet.sequence.Add(1), tokens: tokens, promptTokens: len(request["messages"])/4 + 1, padBytes: options.padBytes,
		dieAfter: options.dieAfterTokens, interval: options.tokenInterval, next: time.Now(),
		usage: bytes.Contains(request["stream_options"], []byte("true")),
	}
	switch {
	case options.free: // the first token comes at once
		a.next = a.next.Add(-a.interval)
	case a.interval > 0: // the first token comes with the step that is running now
		a.next = a.next.Add(-(time.Since(e.start) % a.interval))
	}
	return a
}

func reply(w http.ResponseWriter, status int, body string) {
	w.Header().Set("content-type", bodyKind)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}
