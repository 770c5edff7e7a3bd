package load

import (
	"bytes"
	"fmt"
	"strconv"
)

var (
	dataField    = []byte("data:")
	doneMark     = []byte("[DONE]")
	errorMember  = []byte(`"error":`)
	contentStart = []byte(`"content":`)
	lengthFinish = []byte(`"length"`)
)

// answer checks a stream of events line by line: every token in its order with its text, the finish reason, [DONE].
type answer struct {
	tokens   int // seen
	finished bool
	done     bool
	want     []byte // scratch
}

// line takes one line of the body and says whether it brought a token.
func (a *answer) line(line []byte) (token bool, err error) {
	line = bytes.TrimRight(line, "\r\n")
	if len(line) == 0 || line[0] == ':' {
		return false, nil
	}
	if !bytes.HasPrefix(line, dataField) {
		return false, fmt.Errorf("not an event: %.200q", line)
	}
	data := bytes.TrimLeft(line[len(dataField):], " ")
	switch {
	case a.done:
		return false, fmt.Errorf("event after [DONE]: %.200q", data)
	case bytes.Equal(data, doneMark):
		a.done = true
		return false, nil
	case bytes.Contains(data, errorMember):
		return false, fmt.Errorf("error event after %d tokens: %.300q", a.tokens, data)
	}
	return a.event(data)
}

func (a *answer) event(data []byte) (token bool, err error) {
	at := bytes.Index(data, contentStart)
	if at < 0 {
		return false, nil
	}
	text := bytes.TrimLeft(data[at+len(contentStart):], " ")
	if bytes.HasPrefix(text, []byte(`""`)) || bytes.HasPrefix(text, []byte("null")) {
		return false, nil // the role, or the usage
	}
	a.want = append(strconv.AppendInt(append(a.want[:0], `" t`...), int64(a.tokens), 10), '"')
	if !bytes.HasPrefix(text, a.want) {
		return false, fmt.Errorf("token %d is %.100q", a.tokens, text)
	}
	a.tokens++
	a.finished = bytes.Contains(text, lengthFinish)
	return true, nil
}

// end judges the whole, once the body has ended.
func (a *answer) end(tokens int) error {
	if !a.done || !a.finished || a.tokens != tokens {
		return fmt.Errorf("incomplete: %d of %d tokens, finish reason %v, [DONE] %v", a.tokens, tokens, a.finished, a.done)
	}
	return nil
}
