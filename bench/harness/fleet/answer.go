package fleet

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// answer is one generation: token i has the text " t<i>".
type answer struct {
	id           int64
	tokens       int
	promptTokens int
	padBytes     int
	dieAfter     int // tokens after which the connection is cut; 0: never
	usage        bool
	interval     time.Duration
	next         time.Time // when the last step was
}

// stream writes the events as they become due and says whether all were written.
func (a *answer) stream(ctx context.Context, w http.ResponseWriter) bool {
	w.Header().Set("content-type", "text/event-stream; charset=utf-8")
	flusher := w.(http.Flusher)
	head := fmt.Sprintf(`data: {"id":"chatcmpl-%032d","object":"chat.completion.chunk","created":1700000000,"model":"mock","choices":[`, a.id)
	tail := "}]"
	if a.padBytes > 0 {
		tail += `,"pad":"` + strings.Repeat("x", a.padBytes) + `"`
	}
	tail += "}\n\n"
	events := []byte(head + `{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null` + tail)
	for i := 0; i < a.tokens; i++ {
		if a.next = a.next.Add(a.interval); !wait(ctx, a.next) {
			return false
		}
		if a.dieAfter > 0 && i == a.dieAfter {
			cut(w)
			return false
		}
		events = append(append(events, head...), `{"index":0,"delta":{"content":" t`...)
		events = append(strconv.AppendInt(events, int64(i), 10), `"},"logprobs":null,"finish_reason":`...)
		if i < a.tokens-1 {
			events = append(append(events, `null,"token_ids":null`...), tail...)
		} else {
			events = append(append(events, `"length","stop_reason":null,"token_ids":null`...), tail...)
		}
		if _, err := w.Write(events); err != nil {
			return false
		}
		flusher.Flush()
		events = events[:0]
	}
	if a.usage {
		fmt.Fprintf(w, `%s],"usage":%s}`+"\n\n", head, a.counts())
	}
	_, err := io.WriteString(w, "data: [DONE]\n\n")
	return err == nil
}

// whole is the answer to a request that does not stream.
func (a *answer) whole() string {
	var text strings.Builder
	for i := 0; i < a.tokens; i++ {
		fmt.Fprintf(&text, " t%d", i)
	}
	return fmt.Sprintf(`{"id":"chatcmpl-%032d","object":"chat.completion","created":1700000000,"model":"mock","choices":[{"index":0,"message":{"role":"assistant","content":"%s"},"logprobs":null,"finish_reason":"length"}],"usage":%s,"kv_transfer_params":null}`,
		a.id, text.String(), a.counts())
}

func (a *answer) counts() string {
	return fmt.Sprintf(`{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}`, a.promptTokens, a.promptTokens+a.tokens, a.tokens)
}

// wait returns at a time, or with false when the client has gone.
func wait(ctx context.Context, until time.Time) bool {
	left := time.Until(until)
	if left <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// cut ends the connection in the middle of an answer, as an engine does that dies.
func cut(w http.ResponseWriter) {
	if connection, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = connection.Close()
	}
}
