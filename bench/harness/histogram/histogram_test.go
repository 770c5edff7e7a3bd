package histogram

import (
	"math"
	"testing"
	"time"
)

func TestEveryValueIsInABucketOfItsSize(t *testing.T) {
	for us := int64(0); us < 1<<36; us += 1 + us/97 {
		middle := middleUs(bucket(us))
		if off := math.Abs(middle - float64(us)); off > 0.016*float64(us)/2+0.5 {
			t.Fatalf("%d µs counts as %.1f", us, middle)
		}
	}
}

func TestBucketsAscend(t *testing.T) {
	for us, last := int64(0), -1; us < 1<<20; us++ {
		i := bucket(us)
		if i != last && i != last+1 {
			t.Fatalf("%d µs is in bucket %d, its neighbour in %d", us, i, last)
		}
		last = i
	}
}

func TestSummary(t *testing.T) {
	var h Histogram
	for i := 1; i <= 1000; i++ {
		h.Record(time.Duration(i) * time.Millisecond)
	}
	s := h.Summary()
	for name, pair := range map[string][2]float64{
		"p50": {s.P50Ms, 500}, "p99": {s.P99Ms, 990}, "p99.9": {s.P999Ms, 999}, "mean": {s.MeanMs, 500.5}, "max": {s.MaxMs, 1000},
	} {
		if math.Abs(pair[0]-pair[1]) > 0.01*pair[1] {
			t.Errorf("%s is %.2f ms, not %.2f", name, pair[0], pair[1])
		}
	}
	if s.Count != 1000 {
		t.Errorf("count %d", s.Count)
	}
}

func TestAnEmptySummary(t *testing.T) {
	if s := new(Histogram).Summary(); s != (Summary{}) {
		t.Errorf("%+v", s)
	}
}
