package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// progress shows how far a job is on stderr: a bar that redraws its line on a
// terminal, a plain line every few seconds otherwise, nothing with --quiet
// or --no-progress.
type progress struct {
	a      *app
	label  string
	mu     sync.Mutex
	start  time.Time
	last   time.Time
	drawn  bool
	closed bool
}

// plainEvery is the time between lines where stderr is not a terminal.
const plainEvery = 10 * time.Second

func (a *app) progress(label string) *progress {
	now := time.Now()
	return &progress{a: a, label: label, start: now, last: now}
}

// update shows done of total with an extra text (loss, rate). It may be
// called from any goroutine.
func (p *progress) update(done, total int64, extra string) {
	if p.a.quiet || p.a.noProgress {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	every := plainEvery
	if p.a.errTTY {
		every = 80 * time.Millisecond
	}
	if p.closed || now.Sub(p.last) < every {
		return
	}
	p.last = now
	frac := 0.0
	if total > 0 {
		frac = float64(done) / float64(total)
	}
	eta := "-"
	if frac > 0 {
		eta = short(time.Duration(float64(now.Sub(p.start)) * (1/frac - 1)))
	}
	if !p.a.errTTY {
		fmt.Fprintf(p.a.err, "%s %3.0f%% %s eta %s\n", p.label, 100*frac, extra, eta)
		return
	}
	const cells = 24
	n := int(frac * cells)
	line := fmt.Sprintf("%s [%s%s] %3.0f%% %s eta %s", p.label, strings.Repeat("=", n), strings.Repeat(" ", cells-n), 100*frac, extra, eta)
	if len(line) > p.a.width-1 {
		line = line[:p.a.width-1]
	}
	fmt.Fprintf(p.a.err, "\r\x1b[K%s", line)
	p.drawn = true
}

// line writes a lasting line above the bar.
func (p *progress) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn {
		fmt.Fprint(p.a.err, "\r\x1b[K")
		p.drawn = false
	}
	p.a.note(format, args...)
}

// done removes the bar.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn {
		fmt.Fprint(p.a.err, "\r\x1b[K")
	}
	p.drawn, p.closed = false, true
}

func short(d time.Duration) string {
	d = d.Round(time.Second)
	if d >= time.Hour {
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	if d >= time.Minute {
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%ds", int(d.Seconds()))
}
