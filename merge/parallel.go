package merge

import (
	"context"
	"sync"
	"sync/atomic"
)

// parallel runs do(0) to do(n-1) on several workers, which take the jobs in
// order, and returns the first error, after which no job is begun. do returns
// the bytes that it dealt with; done is told their sum, never twice at a time.
func parallel(ctx context.Context, workers, n int, do func(i int, b *buffers) (int64, error), done func(int64)) error {
	var (
		wg     sync.WaitGroup
		next   atomic.Int64
		failed atomic.Bool
		mu     sync.Mutex
		first  error
		sum    int64
	)
	one := func(b *buffers) bool {
		i := int(next.Add(1)) - 1
		if i >= n || failed.Load() {
			return false
		}
		bytes, err := int64(0), ctx.Err()
		if err == nil {
			bytes, err = do(i, b)
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			if first == nil {
				first = err
			}
			failed.Store(true)
			return false
		}
		sum += bytes
		done(sum)
		return true
	}
	for range min(workers, n) {
		wg.Go(func() {
			var b buffers
			for one(&b) {
			}
		})
	}
	wg.Wait()
	return first
}

// buffers belong to one worker.
type buffers struct {
	src, dst, base     []byte
	delta, tmp, base64 []float64
	delta32, panel     []float32
	rowCarry, colCarry []float64
	chain              chainBuffers
}

func grow[T any](b *[]T, n int) []T {
	if cap(*b) < n {
		*b = make([]T, n)
	}
	*b = (*b)[:n]
	return *b
}
