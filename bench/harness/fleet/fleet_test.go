package fleet

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

type pair struct{ prefill, decode *httptest.Server }

func start(t *testing.T, o options) pair {
	f := &fleet{handoffs: newHandoffs(), options: o}
	serve := func(role, port string) *httptest.Server {
		s := httptest.NewServer((&engine{role: role, port: port, start: time.Now(), fleet: f}).handler())
		t.Cleanup(s.Close)
		return s
	}
	return pair{serve(prefillRole, "1"), serve(decodeRole, "2")}
}

func post(t *testing.T, server *httptest.Server, body string) string {
	response, err := http.Post(server.URL+"/v1/chat/completions", bodyKind, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return string(text)
}

func request(prompt, rest string) string {
	return fmt.Sprintf(`{"model":"mock","messages":[{"role":"user","content":"%s"}],%s}`, prompt, rest)
}

// handoff is the kv_transfer_params of a prefill.
func (p pair) handoff(t *testing.T, prompt string) string {
	var answer map[string]json.RawMessage
	text := post(t, p.prefill, request(prompt, `"max_tokens":1,"stream":false,"kv_transfer_params":{"do_remote_decode":true}`))
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatal(err)
	}
	return string(answer["kv_transfer_params"])
}

func (p pair) generate(t *testing.T, prompt, handoff string) string {
	return post(t, p.decode, request(prompt, `"max_tokens":3,"stream":true,"kv_transfer_params":`+handoff))
}

func (p pair) stats(t *testing.T, server *httptest.Server) (s stats) {
	response, err := http.Get(server.URL + "/stats")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestARightHandshake(t *testing.T) {
	p := start(t, options{})
	text := p.generate(t, "hello", p.handoff(t, "hello"))
	if s := p.stats(t, p.decode); s.BadHandoff != 0 || s.Direct != 0 || s.Served != 1 || s.Held != 0 {
		t.Errorf("%+v", s)
	}
	if strings.Count(text, "data: {") != 4 || !strings.Contains(text, `" t2"`) || !strings.HasSuffix(text, "data: [DONE]\n\n") {
		t.Error(text)
	}
}

func TestWrongHandshakes(t *testing.T) {
	p := start(t, options{})
	p.generate(t, "other", p.handoff(t, "hello"))
	handoff := p.handoff(t, "hello")
	p.generate(t, "hello", handoff)
	p.generate(t, "hello", handoff)
	p.generate(t, "hello", "null")
	post(t, p.prefill, request("hello", `"max_tokens":5,"kv_transfer_params":{"do_remote_decode":true}`))
	if s := p.stats(t, p.decode); s.BadHandoff != 2 || s.Direct != 1 {
		t.Errorf("%+v", s)
	}
	if s := p.stats(t, p.prefill); s.BadPrefill != 1 {
		t.Errorf("%+v", s)
	}
}

func TestAHandoffGivenBackIsNotHeld(t *testing.T) {
	p := start(t, options{})
	handoff := p.handoff(t, "hello")
	post(t, p.decode, `{"model":"none","messages":[],"kv_transfer_params":`+handoff+`}`)
	if s := p.stats(t, p.decode); s.Held != 0 || s.GivenBack != 1 || s.Served != 0 {
		t.Errorf("%+v", s)
	}
}

func TestADyingEngineCutsTheConnection(t *testing.T) {
	p := start(t, options{dieAfterTokens: 2})
	text := p.generate(t, "hello", "null")
	if strings.Contains(text, "[DONE]") || !strings.Contains(text, `" t1"`) || strings.Contains(text, `" t2"`) {
		t.Error(text)
	}
}

func TestMembersAreFoundAsTheyWereSent(t *testing.T) {
	m := parseMembers([]byte(`{ "a" : {"b":[1,"}\\"],"max_tokens":9} ,"s":"x\"y,}", "max_tokens": 7,"list":[{},[]],"last":null}`))
	want := map[string]string{"a": `{"b":[1,"}\\"],"max_tokens":9}`, "s": `"x\"y,}"`, "max_tokens": "7", "list": "[{},[]]", "last": "null"}
	for key, value := range want {
		if !m.is(key, value) {
			t.Errorf("%s is %q", key, m[key])
		}
	}
	if len(m) != len(want) || len(parseMembers([]byte("null"))) != 0 {
		t.Errorf("%q", m)
	}
}

func TestAPromptIsTheSameInAnyOrderOfKeys(t *testing.T) {
	seed := maphash.MakeSeed()
	prompt := func(text string) uint64 { return parseMembers([]byte(text)).prompt(seed) }
	one := prompt(`{"messages":[{"role":"user","content":"hello"}]}`)
	if one != prompt(`{"x":1,"messages": [ {"content": "hello", "role": "user"} ]}`) || one == prompt(`{"messages":[{"role":"user","content":"hellp"}]}`) {
		t.Error("wrong")
	}
}
