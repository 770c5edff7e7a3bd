// Command harness is both ends of a benchmark of prefill/decode routers: a mock fleet and a load that checks answers.
//
//	harness fleet -prefill 9101,9102 -decode 9201,9202 -token-interval 20ms
//	harness load  -url http://127.0.0.1:8000 -streams 100 -seconds 10 -tokens 64 -pid 1234
//	harness load  -url http://127.0.0.1:8000 -rate 50 -seconds 10
//
// "harness load -h" and "harness fleet -h" list the flags. Both use the standard library only.
package main

import (
	"fmt"
	"os"

	"harness/fleet"
	"harness/load"
)

func main() {
	commands := map[string]func([]string) error{"fleet": fleet.Main, "load": load.Main}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: harness fleet|load [flags]")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		os.Exit(1)
	}
}
