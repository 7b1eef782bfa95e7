package merge

import (
	"sync"
	"sync/atomic"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Sizes of the pieces of work. Results of error feedback depend on tileElems.
const (
	tileElems   = 1 << 20 // elements of a tile
	blockElems  = 1 << 15 // elements of an update at hand: 256 KiB of float64, within L2
	blockCols   = 256     // columns of a block
	directCols  = 2048
	directElems = 1 << 15
	rowsElems   = 1 << 18  // elements of a block of whole rows
	copyBytes   = 32 << 20 // bytes of a range to copy
)

// job is a range to copy or a tile to compute.
type job struct {
	file     int   // of the output
	to, n    int64 // bytes there
	from     int64 // copies: offset in the base's file src
	src      int
	work     *work // tiles
	tile     int
	r0, r1   int // rows
	c0, c1   int // columns; all of them when there is more than one row
	undoSlot int // tiles of changed tensors, for the undo file: number, else -1
	done     bool
	journal  int64  // offset in the journal, of a merge in place
	sum      uint32 // CRC-32C of the tile there
}

// work is a touched tensor on its way.
type work struct {
	t          *outTensor
	rows, cols int
	inputLast  bool // error feedback runs along the rows
	updates    bool

	load   sync.Once
	target *target
	err    error
	left   atomic.Int32 // tiles to do
	sums   []sums       // per tile
	sum    *tileSum     // nil without a manifest
}

// jobs cuts the plan into pieces, file by file in the order of the data.
func (p *Plan) jobs() (jobs []job, works []*work) {
	slots := 0
	for f := range p.files {
		var last *job // a copy that may grow
		for i := range sorted(p.files[f].tensors) {
			t := &p.files[f].tensors[i]
			if t.bytes == 0 {
				continue
			}
			if t.touched() {
				w := newWork(t)
				works = append(works, w)
				jobs = w.cut(jobs, f, &slots)
				last = nil
				continue
			}
			if last != nil && last.src == t.src.File && last.from+last.n == t.src.Offset && last.to+last.n == t.offset {
				last.n += t.bytes
				continue
			}
			jobs = append(jobs, job{file: f, to: t.offset, n: t.bytes, from: t.src.Offset, src: t.src.File, undoSlot: -1})
			last = &jobs[len(jobs)-1]
		}
	}
	return splitCopies(jobs), works
}

// splitCopies cuts long ranges so that workers share them.
func splitCopies(jobs []job) []job {
	var out []job
	for _, j := range jobs {
		for j.work == nil && j.n > copyBytes {
			part := j
			part.n = copyBytes
			out = append(out, part)
			j.from, j.to, j.n = j.from+copyBytes, j.to+copyBytes, j.n-copyBytes
		}
		out = append(out, j)
	}
	return out
}

func newWork(t *outTensor) *work {
	w := &work{t: t}
	if t.todo != nil && len(t.todo.updates) > 0 {
		w.updates = true
		w.rows, w.cols = t.shape[0], t.shape[1]
		w.inputLast = t.todo.updates[0].Site.Transposed
		return w
	}
	n, _ := tensor.Elements(t.shape) // valid: the layout has been computed from it
	w.rows, w.cols, w.inputLast = 1, int(n), true
	return w
}

// cut appends the tensor's tiles.
func (w *work) cut(jobs []job, file int, slots *int) []job {
	width := int64(w.t.dtype.Bits() / 8)
	add := func(r0, r1, c0, c1 int) {
		j := job{file: file, work: w, tile: len(w.sums), r0: r0, r1: r1, c0: c0, c1: c1, undoSlot: -1}
		j.to = w.t.offset + (int64(r0)*int64(w.cols)+int64(c0))*width
		j.n = (int64(r1-r0-1)*int64(w.cols) + int64(c1-c0)) * width
		if w.t.has && w.t.name == w.t.src.Name {
			j.undoSlot = *slots
			*slots++
		}
		jobs = append(jobs, j)
		w.sums = append(w.sums, sums{})
	}
	if w.rows == 1 && !w.updates {
		for c := 0; c < w.cols; c += tileElems {
			add(0, 1, c, min(c+tileElems, w.cols))
		}
	} else {
		step := max(1, tileElems/w.cols)
		for r := 0; r < w.rows; r += step {
			add(r, min(r+step, w.rows), 0, w.cols)
		}
	}
	w.left.Store(int32(len(w.sums)))
	return jobs
}

// ready loads the updates, once, when the first tile needs them.
func (w *work) ready(r *run) (*target, error) {
	w.load.Do(func() { w.target, w.err = w.makeTarget(r) })
	return w.target, w.err
}

func (w *work) makeTarget(r *run) (*target, error) {
	var terms []term
	if !w.updates {
		return newTarget(w.rows, w.cols, nil), nil
	}
	for _, u := range w.t.todo.updates {
		m, err := u.term()
		if err != nil {
			return nil, err
		}
		terms = append(terms, m)
	}
	t := newTarget(w.rows, w.cols, terms)
	if u := &w.t.todo.updates[0]; u.Rescaled != nil { // the only one, as the plan has checked
		_, m, err := u.Rescaled()
		if err != nil {
			return nil, err
		}
		return t, r.rescaleBy(w, t, m, u.Site.Transposed)
	}
	return t, nil
}

// total sums up the tiles in their order.
func (w *work) total() sums {
	var s sums
	for i := range w.sums {
		s.add(&w.sums[i])
	}
	return s
}
