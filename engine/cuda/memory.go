package cuda

import (
	"fmt"
	"syscall"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// fixedBytes is the memory that does not depend on the batch: frozen weights.
// Of these, there bytes are on the device already.
func (x *executable) fixedBytes() (n, there int64) {
	x.e.mu.Lock()
	defer x.e.mu.Unlock()
	seen := map[weightKey]bool{}
	for id, u := range used(x.p) {
		if !u.read {
			continue
		}
		w := x.p.Weight(graph.WeightID(id))
		key, _ := x.weightKey(w, u)
		if !seen[key] {
			n += weightBytes(w, key.as)
			if x.e.cache[key] != nil {
				there += weightBytes(w, key.as)
			}
		}
		seen[key] = true
	}
	return n, there
}

// overhead is what batches up to d need beside the plan.
func (x *executable) overhead(d graph.Dims) (int64, error) {
	x.findRopes()
	x.plan = graph.NewPlan(x.p, d)
	if err := x.runPass(measure, d); err != nil {
		return 0, err
	}
	l := layoutOf(x.p, d)
	return x.need + x.ropeBytes(d) + l.bytes() + int64(len(x.kronList))*kronBytes + 8*int64(max(d.S, d.R, 1)), nil
}

// budget is the memory that this executable may take, with what it holds and
// the weights that others hold for it.
func (x *executable) budget() (int64, error) {
	var free, total uintptr
	if err := x.check("cuMemGetInfo", x.memoryInfo(&free, &total)); err != nil {
		return 0, err
	}
	_, there := x.fixedBytes()
	most := int64(free) + there + x.ownBytes()
	if limit := x.e.opt.MemoryLimit; limit > 0 {
		most = min(limit, most)
	}
	return most, nil
}

// total is all that batches up to d, rounded up to their bucket, need.
func (x *executable) total(d graph.Dims) (int64, error) {
	extra, err := x.overhead(bucket(d))
	fixed, _ := x.fixedBytes()
	return fixed + extra + x.plan.PeakBytes, err
}

// fits returns an error that says what would fit if the program with batches
// up to d does not.
func (x *executable) fits(d graph.Dims) error {
	limit, err := x.budget()
	if err != nil {
		return err
	}
	need, err := x.total(d)
	if err != nil {
		return err
	}
	if need <= limit {
		return nil
	}
	return x.tooLarge(d, need, limit)
}

// memoryError says what would fit. It is [syscall.ENOMEM].
type memoryError string

// Error implements error.
func (e memoryError) Error() string { return string(e) }

// Is reports whether target is ENOMEM.
func (e memoryError) Is(target error) bool { return target == syscall.ENOMEM }

// tooLarge looks for the largest part of a batch of sizes d that fits.
func (x *executable) tooLarge(d graph.Dims, need, limit int64) error {
	part := func(n int) graph.Dims {
		scale := func(v int) int { return (v*n + d.S - 1) / max(d.S, 1) }
		return graph.Dims{T: max(scale(d.T), min(d.MaxLen, d.T)), S: n, R: scale(d.R), MaxLen: d.MaxLen}
	}
	lo, hi := 0, max(d.S, 1) // lo sequences fit, hi do not
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		n, err := x.total(part(mid))
		if err != nil {
			return err
		}
		if n <= limit {
			lo = mid
		} else {
			hi = mid
		}
	}
	what := fmt.Sprintf("%s are needed for %d tokens in %d sequences and %s are available on %s", size(need), d.T, d.S, size(limit), x.info.Name)
	if lo > 0 {
		return memoryError(fmt.Sprintf("%s; %d tokens in %d sequences would fit", what, part(lo).T, lo))
	}
	one, err := x.total(part(1))
	if err != nil {
		return err
	}
	fixed, _ := x.fixedBytes()
	return memoryError(fmt.Sprintf("%s; one sequence already takes %s, of which frozen weights %s: use a GPU with more memory, shorter sequences, a smaller base or a base dtype of bf16 or int8",
		what, size(one), size(fixed)))
}

// explain turns the driver's lack of memory into what would fit.
func (x *executable) explain(err error, d graph.Dims) error {
	if err == nil || !outOfMemory(err) {
		return err
	}
	limit, e := x.budget()
	if e != nil {
		return err
	}
	need, e := x.total(d)
	if e != nil {
		return err
	}
	return fmt.Errorf("%w: %w", err, x.tooLarge(d, need, limit))
}
