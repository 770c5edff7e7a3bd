package load

import (
	"strings"
	"testing"
)

const (
	role  = `data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}`
	first = `data: {"choices":[{"delta":{"content":" t0"},"finish_reason":null}]}`
	last  = `data: {"choices":[{"delta":{"content": " t1"},"finish_reason":"length"}]}`
	usage = `data: {"choices":[],"usage":{"completion_tokens":2}}`
	done  = "data: [DONE]"
)

func judge(lines ...string) error {
	var a answer
	for _, line := range lines {
		if _, err := a.line([]byte(line + "\r\n")); err != nil {
			return err
		}
	}
	return a.end(2)
}

func TestARightAnswer(t *testing.T) {
	if err := judge(": ping", "", role, "", first, last, usage, done); err != nil {
		t.Error(err)
	}
}

func TestEveryFaultIsSeen(t *testing.T) {
	for name, lines := range map[string][]string{
		"no [DONE]":         {role, first, last},
		"a token lost":      {role, first, done},
		"out of order":      {role, last, first, done},
		"twice":             {role, first, first, last, done},
		"wrong text":        {role, strings.Replace(first, "t0", "t00", 1), last, done},
		"no finish reason":  {role, first, strings.Replace(last, `"length"`, "null", 1), done},
		"more after [DONE]": {role, first, last, done, first},
		"an error event":    {role, first, `data: {"error":{"message":"lost"}}`, done},
		"not an event":      {role, first, last, "<html>", done},
		"nothing":           {},
	} {
		if judge(lines...) == nil {
			t.Errorf("%s: passes", name)
		}
	}
}
