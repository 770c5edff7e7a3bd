// Package load asks a router for streamed chat completions of the mock fleet, and checks every answer.
//
// Closed loop: a number of clients, each asking again when its answer is complete. Open loop: requests arrive at a fixed
// rate, whether or not earlier ones are answered; latencies count from when a request was due, so that a router (or
// this program) that falls behind shows in all requests it delays (Tene: "coordinated omission").
package load

import (
	"encoding/json"
	"math/rand"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"harness/histogram"
	"harness/process"
)

const retryPause = 5 * time.Millisecond // after an error, so that a dead router is not hammered

type load struct {
	options     options
	connections *connections
	bodies      [][]byte
	started     atomic.Int64
	measuring   atomic.Bool
	ended       chan struct{} // closed when nothing more is to be asked
	workers     sync.WaitGroup

	requests, tokens, errors, left, inFlight atomic.Int64
	ttft, interToken, latency                histogram.Histogram
	faultOnce                                sync.Once
	fault                                    string
}

// Main runs one load and prints its result as a line of JSON.
func Main(args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	r, err := newLoad(o).run()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func newLoad(o options) *load {
	return &load{
		options: o, connections: &connections{address: o.address, sources: o.sources},
		bodies: bodies(o, rand.New(rand.NewSource(o.seed))), ended: make(chan struct{}),
	}
}

func (l *load) run() (result, error) {
	l.measuring.Store(l.options.requests > 0)
	drive := l.closedLoop
	if l.options.rate > 0 {
		drive = l.openLoop
	}
	l.workers.Add(1)
	go func() {
		defer l.workers.Done()
		drive()
	}()
	return l.measure()
}

// measure warms up, measures, and waits for the requests in flight. The result is that of the measured time.
func (l *load) measure() (result, error) {
	time.Sleep(l.options.warm)
	before, err := process.Of(l.options.pids)
	if err != nil {
		return result{}, err
	}
	self, err := process.Of([]int{os.Getpid()})
	if err != nil {
		return result{}, err
	}
	l.measuring.Store(true)
	begin := time.Now()
	if l.options.requests > 0 {
		l.workers.Wait()
	} else {
		time.Sleep(l.options.measured)
	}
	l.measuring.Store(false)
	elapsed := time.Since(begin)
	after, err := process.Of(l.options.pids)
	if err != nil {
		return result{}, err
	}
	selfAfter, err := process.Of([]int{os.Getpid()})
	if err != nil {
		return result{}, err
	}
	close(l.ended)
	l.await()
	return l.result(elapsed, before, after, selfAfter.CPUSeconds-self.CPUSeconds), nil
}

// await gives the requests in flight the time of -drain.
func (l *load) await() {
	finished := make(chan struct{})
	go func() { l.workers.Wait(); close(finished) }()
	select {
	case <-finished:
	case <-time.After(l.options.drain):
	}
}

func (l *load) closedLoop() {
	n := l.options.streams
	l.workers.Add(n)
	for i := 0; i < n; i++ {
		delay := l.options.warm * 3 / 4 * time.Duration(i) / time.Duration(n) // no waves
		random := rand.New(rand.NewSource(l.options.seed + int64(i)))
		go func() {
			defer l.workers.Done()
			time.Sleep(delay)
			for l.more() {
				l.one(time.Now(), l.options.manner(random))
			}
		}()
	}
}

func (l *load) openLoop() {
	interval := time.Duration(float64(time.Second) / l.options.rate)
	random := rand.New(rand.NewSource(l.options.seed))
	for due := time.Now(); l.more(); due = due.Add(interval) {
		time.Sleep(time.Until(due))
		due, m := due, l.options.manner(random)
		l.workers.Add(1)
		go func() {
			defer l.workers.Done()
			l.one(due, m)
		}()
	}
}

// more counts a request and says whether it is to be made.
func (l *load) more() bool {
	if l.options.requests > 0 {
		return l.started.Add(1) <= l.options.requests
	}
	select {
	case <-l.ended:
		return false
	default:
		l.started.Add(1)
		return true
	}
}

func (l *load) one(due time.Time, m manner) {
	l.inFlight.Add(1)
	defer l.inFlight.Add(-1)
	body := l.bodies[int(l.started.Load())%len(l.bodies)]
	if err := l.request(body, due, m); err != nil {
		l.errors.Add(1)
		l.faultOnce.Do(func() { l.fault = err.Error() })
		time.Sleep(retryPause)
	}
}

// token counts one and returns when it came. last is when the one before it came.
func (l *load) token(number int, due, last time.Time) time.Time {
	now := time.Now()
	if l.measuring.Load() {
		l.tokens.Add(1)
		if number == 1 {
			l.ttft.Record(now.Sub(due))
		} else {
			l.interToken.Record(now.Sub(last))
		}
	}
	return now
}

func (l *load) complete(due time.Time) {
	if l.measuring.Load() {
		l.requests.Add(1)
		l.latency.Record(time.Since(due))
	}
}
