package kernel

import (
	"sync"
	"unsafe"
)

// scratch is the working memory of one job. Buffers keep their contents'
// leftovers: whoever asks for one fills it.
type scratch[T float] struct {
	a, b, c []T
	tile    []T // one tile of C, for edges
}

// freeList keeps scratch between products: as many as ever worked at once.
type freeList[T float] struct {
	sync.Mutex
	free []*scratch[T]
}

var (
	scratch32 freeList[float32]
	scratch64 freeList[float64]
)

func listOf[T float]() *freeList[T] {
	if l, ok := any(&scratch32).(*freeList[T]); ok {
		return l
	}
	return any(&scratch64).(*freeList[T])
}

func takeScratch[T float]() *scratch[T] {
	l := listOf[T]()
	l.Lock()
	defer l.Unlock()
	if n := len(l.free); n > 0 {
		s := l.free[n-1]
		l.free = l.free[:n-1]
		return s
	}
	return &scratch[T]{tile: allocOf[T](24 * 64)}
}

func (s *scratch[T]) release() {
	l := listOf[T]()
	l.Lock()
	l.free = append(l.free, s)
	l.Unlock()
}

// grow returns *buf with room for n elements.
func grow[T float](buf *[]T, n int) []T {
	if len(*buf) < n {
		freeOf(*buf)
		*buf = allocOf[T](n + n/4)
	}
	return (*buf)[:n]
}

// allocOf is Alloc for either type.
func allocOf[T float](n int) []T {
	var t T
	s := Alloc((n*int(unsafe.Sizeof(t)) + 3) / 4)
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&s[0])), n)
}

func freeOf[T float](s []T) {
	if len(s) > 0 {
		Free(unsafe.Slice((*float32)(unsafe.Pointer(&s[0])), 1))
	}
}
