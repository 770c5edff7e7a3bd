// Package process tells what processes use: CPU and memory with all their threads and descendants, from /proc.
package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const ticksPerSecond = 100 // USER_HZ, which Linux reports in on every platform

// Usage of some processes. CPU is user + system and includes children that have ended and were waited for.
type Usage struct {
	CPUSeconds float64
	RSSBytes   int64
}

type process struct {
	parent int
	usage  Usage
}

// Of sums over the processes and their descendants.
func Of(pids []int) (Usage, error) {
	all := table()
	var sum Usage
	for _, pid := range pids {
		if _, alive := all[pid]; !alive {
			return sum, fmt.Errorf("no process %d", pid)
		}
	}
	for pid, p := range all {
		if descends(all, pid, pids) {
			sum.CPUSeconds += p.usage.CPUSeconds
			sum.RSSBytes += p.usage.RSSBytes
		}
	}
	return sum, nil
}

func descends(all map[int]process, pid int, from []int) bool {
	for ; pid > 1; pid = all[pid].parent {
		for _, ancestor := range from {
			if pid == ancestor {
				return true
			}
		}
	}
	return false
}

func table() map[int]process {
	all := map[int]process{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		if p, err := parse(line); err == nil {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			all[pid] = p
		}
	}
	return all
}

// parse reads /proc/PID/stat; see proc(5) for the columns, counted from the state, as the name may hold blanks.
func parse(line []byte) (process, error) {
	const parent, firstTime, lastTime, rssPages = 1, 11, 14, 21
	columns := strings.Fields(string(line[bytes.LastIndexByte(line, ')')+1:]))
	if len(columns) <= rssPages {
		return process{}, fmt.Errorf("unexpected stat line %q", line)
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(columns[i], 10, 64); return n }
	p := process{parent: int(number(parent))}
	for i := firstTime; i <= lastTime; i++ {
		p.usage.CPUSeconds += float64(number(i)) / ticksPerSecond
	}
	p.usage.RSSBytes = number(rssPages) * int64(os.Getpagesize())
	return p, nil
}
