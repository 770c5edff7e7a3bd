package fleet

import (
	"bytes"
	"hash/maphash"
)

// members are the top-level members of a JSON object as they were sent. Decoding a large prompt with encoding/json
// would cost more than the router under test; this only finds where values begin and end.
type members map[string][]byte

func parseMembers(body []byte) members {
	found := members{}
	depth, key, start := 0, "", -1
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '"':
			end := stringEnd(body, i)
			if depth == 1 && start < 0 {
				key = string(body[i+1 : end])
			}
			i = end
		case ':':
			if depth == 1 && start < 0 {
				start = i + 1
			}
		case '{', '[':
			depth++
		case '}', ']', ',':
			if depth == 1 && start >= 0 {
				found[key], start = bytes.TrimSpace(body[start:i]), -1
			}
			if body[i] != ',' {
				depth--
			}
		}
	}
	return found
}

// stringEnd is the place of the quote that ends the string begun at i.
func stringEnd(body []byte, i int) int {
	for end := i + 1; ; end++ {
		n := bytes.IndexByte(body[end:], '"')
		if n < 0 {
			return len(body) - 1
		}
		end += n
		escapes := 0
		for body[end-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return end
		}
	}
}

func (m members) is(key, value string) bool { return string(m[key]) == value }

func (m members) text(key string) string { return string(bytes.Trim(m[key], `"`)) }

// prompt identifies the messages (or prompt): a sum over all strings, so that it survives another order of keys and
// other blanks, which a router that writes the body anew may leave.
func (m members) prompt(seed maphash.Seed) uint64 {
	value := m["messages"]
	if value == nil {
		value = m["prompt"]
	}
	var sum uint64
	for i := 0; i < len(value); i++ {
		if value[i] == '"' {
			end := stringEnd(value, i)
			sum += maphash.Bytes(seed, value[i:end])
			i = end
		}
	}
	return sum
}
