// Package histogram counts durations in buckets whose width grows with the value, as HdrHistogram does.
//
// A value is kept to 7 significant bits: percentiles are off by less than 0.8 %, from 1 µs to a day, in 32 KiB.
package histogram

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	significantBits = 7
	perOctave       = 1 << significantBits
	octaves         = 31
)

// Histogram may be used from many goroutines. Its zero value is empty.
type Histogram struct {
	counts [octaves * perOctave]atomic.Int64
	sumUs  atomic.Int64
	maxUs  atomic.Int64
}

// Record counts one duration; less than a microsecond counts as 0.
func (h *Histogram) Record(d time.Duration) {
	us := d.Microseconds()
	if us < 0 {
		us = 0
	}
	h.counts[bucket(us)].Add(1)
	h.sumUs.Add(us)
	for top := h.maxUs.Load(); us > top && !h.maxUs.CompareAndSwap(top, us); top = h.maxUs.Load() {
	}
}

// Summary is what is written of a histogram; milliseconds.
type Summary struct {
	Count  int64   `json:"count"`
	MeanMs float64 `json:"mean_ms"`
	P50Ms  float64 `json:"p50_ms"`
	P90Ms  float64 `json:"p90_ms"`
	P99Ms  float64 `json:"p99_ms"`
	P999Ms float64 `json:"p999_ms"`
	MaxMs  float64 `json:"max_ms"`
}

// Summary reads the histogram; it must not be recorded into meanwhile.
func (h *Histogram) Summary() Summary {
	s := Summary{P50Ms: h.quantileMs(0.5), P90Ms: h.quantileMs(0.9), P99Ms: h.quantileMs(0.99), P999Ms: h.quantileMs(0.999)}
	for i := range h.counts {
		s.Count += h.counts[i].Load()
	}
	if s.Count > 0 {
		s.MeanMs = float64(h.sumUs.Load()) / float64(s.Count) / 1000
	}
	s.MaxMs = float64(h.maxUs.Load()) / 1000
	return s
}

// quantileMs is the middle of the bucket in which the share q of all values is reached.
func (h *Histogram) quantileMs(q float64) float64 {
	var total, seen int64
	for i := range h.counts {
		total += h.counts[i].Load()
	}
	rank := int64(q*float64(total) + 0.5)
	if rank < 1 {
		rank = 1
	}
	for i := range h.counts {
		if seen += h.counts[i].Load(); total > 0 && seen >= rank {
			return middleUs(i) / 1000
		}
	}
	return 0
}

// bucket: values below perOctave have one each; above, every doubling has perOctave buckets, half of them its own.
func bucket(us int64) int {
	shift := bits.Len64(uint64(us)) - significantBits
	if shift <= 0 {
		return int(us)
	}
	i := shift*perOctave/2 + int(us>>shift) // us>>shift is in [perOctave/2, perOctave)
	if last := octaves*perOctave - 1; i > last {
		return last
	}
	return i
}

func middleUs(i int) float64 {
	if i < perOctave {
		return float64(i)
	}
	shift := i/(perOctave/2) - 1
	low := int64(i-shift*perOctave/2) << shift
	return float64(low) + float64(int64(1)<<shift)/2
}
