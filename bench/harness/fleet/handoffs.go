package fleet

import (
	"hash/maphash"
	"sync"
)

// verdict is what a decode engine found out about the kv_transfer_params of a request.
type verdict int

const (
	good verdict = iota
	unknown
	otherPrompt
)

// handoffs are those issued by the fleet's prefill engines and not yet used, by remote_request_id.
type handoffs struct {
	seed   maphash.Seed
	mu     sync.Mutex
	prompt map[string]uint64
}

func newHandoffs() *handoffs {
	return &handoffs{seed: maphash.MakeSeed(), prompt: map[string]uint64{}}
}

func (h *handoffs) issue(id string, request members) {
	prompt := request.prompt(h.seed)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.prompt[id] = prompt
}

// use takes a handoff out: it was issued, is used once, and belongs to the prompt.
func (h *handoffs) use(id string, request members) verdict {
	prompt := request.prompt(h.seed)
	h.mu.Lock()
	defer h.mu.Unlock()
	issued, ok := h.prompt[id]
	delete(h.prompt, id)
	switch {
	case !ok:
		return unknown
	case issued != prompt:
		return otherPrompt
	}
	return good
}

// giveBack takes a handoff out that will not be used.
func (h *handoffs) giveBack(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.prompt, id)
}

func (h *handoffs) held() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.prompt)
}
