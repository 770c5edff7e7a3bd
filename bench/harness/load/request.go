package load

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"strings"
	"time"
)

var errLeft = errors.New("the client has left on purpose")

// bodies are whole requests, head included, with prompts of random words.
func bodies(o options, random *rand.Rand) [][]byte {
	all := make([][]byte, o.prompts)
	for i := range all {
		var prompt strings.Builder
		for prompt.Len() < o.promptBytes {
			fmt.Fprintf(&prompt, "w%d ", random.Intn(100000))
		}
		body := fmt.Sprintf(`{"model":"mock","messages":[{"role":"user","content":"%s"}],"max_tokens":%d,"stream":true}`, prompt.String()[:o.promptBytes], o.tokens)
		all[i] = []byte(fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nUser-Agent: harness\r\nAccept: */*\r\n"+
			"Authorization: Bearer sk-bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", o.address, len(body), body))
	}
	return all
}

// manner is how a client behaves. leaveAfter: tokens after which it leaves; -1: never; 0: before the first.
type manner struct {
	leaveAfter int
	leaveAt    time.Duration // when, before the first token
	byReset    bool
	slow       bool
}

func (o options) manner(random *rand.Rand) manner {
	m := manner{leaveAfter: -1}
	if random.Float64() < o.abortShare {
		m.leaveAfter, m.byReset = random.Intn(o.tokens), random.Intn(2) == 0
		m.leaveAt = time.Duration(random.Intn(30)) * time.Millisecond
	}
	m.slow = random.Float64() < o.slowShare
	return m
}

// request is one exchange; due is when it was to start, from which all its latencies are counted.
func (l *load) request(body []byte, due time.Time, m manner) error {
	c, err := l.connect(m)
	if err != nil {
		return err
	}
	_ = c.SetDeadline(time.Now().Add(l.options.timeout))
	if m.leaveAfter == 0 { // during the prefill leg, or just after it
		timer := time.AfterFunc(m.leaveAt, func() { _ = c.SetReadDeadline(time.Now()) })
		defer timer.Stop()
	}
	reusable, err := l.exchange(c, body, due, m)
	switch {
	case m.leaveAfter == 0 && isTimeout(err), err == errLeft:
		c.leave(m.byReset)
		l.left.Add(1)
		return nil
	case err != nil || !reusable || m.slow || m.leaveAfter == 0:
		_ = c.Close()
	default:
		l.connections.put(c)
	}
	return err
}

func (l *load) connect(m manner) (*connection, error) {
	if !m.slow {
		return l.connections.get()
	}
	c, err := l.connections.dial()
	if err == nil {
		err = c.SetReadBuffer(slowWindowBytes)
	}
	return c, err
}

func (c *connection) leave(byReset bool) {
	if byReset {
		c.leaveByReset()
	} else {
		c.leaveByFin()
	}
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// exchange sends a request and checks the answer. It says whether the connection can be used again.
func (l *load) exchange(c *connection, body []byte, due time.Time, m manner) (reusable bool, err error) {
	if _, err := c.Write(body); err != nil {
		return false, err
	}
	response, err := http.ReadResponse(c.reader, nil) // its Body is not closed: that would read the rest
	if err != nil {
		return false, err
	}
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 300))
		return false, fmt.Errorf("status %d: %s", response.StatusCode, text)
	}
	c.lines.Reset(response.Body)
	var a answer
	last := due
	for {
		if m.slow {
			time.Sleep(l.options.slowPause)
		}
		line, err := c.lines.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			break
		} else if err == bufio.ErrBufferFull {
			return false, errors.New("a line of more than 8 KiB")
		} else if err != nil {
			return false, fmt.Errorf("after %d tokens: %w", a.tokens, err)
		}
		token, err := a.line(line)
		if err != nil {
			return false, err
		}
		if token {
			last = l.token(a.tokens, due, last)
			if a.tokens == m.leaveAfter {
				return false, errLeft
			}
		}
	}
	if err := a.end(l.options.tokens); err != nil {
		return false, err
	}
	l.complete(due)
	return !response.Close, nil
}
