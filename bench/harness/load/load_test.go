package load

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const tokens = 8

// router answers as the fleet does; pause is before every token.
func router(t *testing.T, pause time.Duration, gone *atomic.Int64) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i < tokens; i++ {
			select {
			case <-time.After(pause):
			case <-r.Context().Done():
				gone.Add(1)
				return
			}
			finish := "null"
			if i == tokens-1 {
				finish = `"length"`
			}
			fmt.Fprintf(w, `data: {"choices":[{"delta":{"content":" t%d"},"finish_reason":%s}]}`+"\n\n", i, finish)
			w.(http.Flusher).Flush()
		}
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func run(t *testing.T, url string, args ...string) result {
	o, err := parse(append([]string{"-url", url, "-tokens", fmt.Sprint(tokens)}, args...))
	if err != nil {
		t.Fatal(err)
	}
	r, err := newLoad(o).run()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestClosedLoopCountsWhatItAskedFor(t *testing.T) {
	r := run(t, router(t, time.Millisecond, new(atomic.Int64)), "-requests", "40", "-streams", "4")
	if r.Requests != 40 || r.Tokens != 40*tokens || r.Errors != 0 || r.TTFT.Count != 40 || r.Latency.Count != 40 {
		t.Errorf("%+v", r)
	}
	if r.ConnectionsDialed > 4 {
		t.Errorf("%d connections for 4 clients", r.ConnectionsDialed)
	}
}

func TestOpenLoopCountsFromWhenRequestsWereDue(t *testing.T) {
	// One connection's worth of requests at a time would take 40 x 8 ms; all are due within 40 ms.
	r := run(t, router(t, time.Millisecond, new(atomic.Int64)), "-requests", "40", "-rate", "1000")
	if r.Requests != 40 || r.Errors != 0 || r.Seconds > 0.3 {
		t.Errorf("%+v", r)
	}
}

func TestClientsThatLeaveAreNoticed(t *testing.T) {
	var gone atomic.Int64
	r := run(t, router(t, 10*time.Millisecond, &gone), "-requests", "20", "-streams", "5", "-abort", "1")
	if r.Left != 20 || r.Errors != 0 || r.Requests != 0 {
		t.Errorf("%+v", r)
	}
	for deadline := time.Now().Add(5 * time.Second); gone.Load() < 10 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
	}
	if gone.Load() < 10 {
		t.Errorf("%d of 20 seen to leave", gone.Load())
	}
}

func TestSlowReadersGetEverything(t *testing.T) {
	r := run(t, router(t, 0, new(atomic.Int64)), "-requests", "6", "-streams", "3", "-slow", "1", "-slow-pause", "1ms")
	if r.Requests != 6 || r.Errors != 0 || r.ConnectionsDialed != 6 {
		t.Errorf("%+v", r)
	}
}

func TestErrorsAreToldWithTheFirst(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no room", http.StatusServiceUnavailable)
	}))
	defer server.Close()
	r := run(t, server.URL, "-requests", "3", "-streams", "1")
	if r.Errors != 3 || r.Requests != 0 || !strings.Contains(r.FirstError, "503: no room") {
		t.Errorf("%+v", r)
	}
}
