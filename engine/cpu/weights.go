package cpu

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// use is a way in which a program needs a frozen tensor.
type use uint8

const (
	forward  use = iota // packed W for y = x W
	backward            // packed Wᵀ for dx = dy Wᵀ
	gathered            // rows to look up
	vector              // bias or norm scale
	squares             // Σ of squares per column, as rounded, for ColNorm
	numUses
)

// weightKey identifies a stored weight among the executables of an engine.
type weightKey struct {
	source     graph.WeightSource
	name       string
	in, out    int
	transposed bool
	use        use
	kernels    string // packed layouts differ between kernels
}

// storedWeight is one frozen tensor in one form; only the fields of its form
// are set.
type storedWeight struct {
	packed  *kernel.PackedB
	f32     []float32 // rows or vector
	half    []byte    // rows as bf16
	bytes8  []int8    // rows as int8, times scales
	scales  []float32 // of each row
	squares []float64
	users   int // executables that hold it
	key     weightKey
	cached  bool
}

func (s *storedWeight) bytes() int64 {
	n := int64(4*len(s.f32) + len(s.half) + len(s.bytes8) + 4*len(s.scales) + 8*len(s.squares))
	if s.packed != nil {
		n += s.packed.Bytes()
	}
	return n
}

func (s *storedWeight) free() {
	if s.packed != nil {
		s.packed.Free()
	}
	kernel.Free(s.f32)
	*s = storedWeight{}
}

// weightUses returns, per weight of p, the forms that its operations need.
func weightUses(p *graph.Program) []([numUses]bool) {
	need := make([]([numUses]bool), len(p.Weights)+1)
	for _, op := range p.Ops {
		switch o := op.(type) {
		case *graph.Embed:
			for _, t := range o.Tables {
				need[t][gathered] = true
			}
		case *graph.Linear:
			need[o.W][forward], need[o.Bias][vector] = true, true
		case *graph.LinearGrad:
			need[o.W][backward] = true
		case *graph.Norm:
			need[o.Gamma][vector], need[o.Beta][vector] = true, true
		case *graph.NormGrad:
			need[o.Gamma][vector] = true
		case *graph.ColScale:
			need[o.Bias][vector] = true
		case *graph.ColNorm:
			need[o.W][forward], need[o.W][squares] = true, true
		case *graph.LMLoss:
			need[o.W][forward], need[o.Bias][vector] = true, true
			if o.DX != graph.None {
				need[o.W][backward] = true
			}
		}
	}
	need[graph.NoWeight] = [numUses]bool{}
	return need
}

// tiedTables finds the tables that need no memory of their own: a language model's
// logits are products with its embeddings, and packed for the gradient of that product
// they lie by rows, in pieces as long as a cache line. Only float32 is packed as it is.
func (x *executable) tiedTables(need []([numUses]bool)) map[graph.WeightID]graph.WeightID {
	if x.e.opt.BaseDType != "f32" {
		return nil
	}
	tied := map[graph.WeightID]graph.WeightID{}
	for id := range need {
		if !need[id][gathered] {
			continue
		}
		t := x.p.Weight(graph.WeightID(id))
		for other := range need {
			if need[other][backward] && isTied(t, x.p.Weight(graph.WeightID(other))) {
				tied[graph.WeightID(id)] = graph.WeightID(other)
			}
		}
	}
	return tied
}

// isTied says whether w is the transpose of table t, by the same stored tensor.
func isTied(t, w *graph.Weight) bool {
	return t.Name == w.Name && t.In == w.Out && t.Out == w.In && t.Transposed != w.Transposed
}

// loadWeights brings the weights of the program into memory in the forms that
// are needed. A tensor is read once for all its forms.
func (x *executable) loadWeights() error {
	need := weightUses(x.p)
	x.weights = make([][numUses]*storedWeight, len(need))
	tied := x.tiedTables(need)
	for id := range need {
		if _, ok := tied[graph.WeightID(id)]; ok || need[id][gathered] && x.tiedElsewhere(graph.WeightID(id)) {
			need[id][gathered] = false
		}
		if need[id] == ([numUses]bool{}) {
			continue
		}
		if err := x.loadWeight(graph.WeightID(id), need[id]); err != nil {
			return err
		}
	}
	x.e.mu.Lock()
	defer x.e.mu.Unlock()
	for table, w := range tied {
		s := x.weights[w][backward]
		s.users++
		x.weights[table][gathered] = s
	}
	return nil
}

// tiedElsewhere is the same across executables: one that only evaluates finds the packed
// embeddings of the one that trains.
func (x *executable) tiedElsewhere(id graph.WeightID) bool {
	if !cacheable(x.source) || x.e.opt.BaseDType != "f32" {
		return false
	}
	x.e.mu.Lock()
	defer x.e.mu.Unlock()
	t := *x.p.Weight(id)
	t.In, t.Out, t.Transposed = t.Out, t.In, !t.Transposed
	s := x.e.cache[x.weightKey(&t, backward)]
	if s == nil {
		return false
	}
	s.users++
	x.weights[id][gathered] = s
	return true
}

func (x *executable) loadWeight(id graph.WeightID, need [numUses]bool) error {
	w := x.p.Weight(id)
	e := x.e
	e.mu.Lock()
	defer e.mu.Unlock()
	missing := false
	for u := range numUses {
		if !need[u] {
			continue
		}
		if s := e.cache[x.weightKey(w, u)]; s != nil && cacheable(x.source) {
			s.users++
			x.weights[id][u] = s
		} else {
			missing = true
		}
	}
	if !missing {
		return nil
	}
	image := kernel.Alloc(w.In * w.Out)
	if err := x.readWeight(w, image); err != nil {
		kernel.Free(image)
		return err
	}
	kept := false
	for u := range numUses {
		if !need[u] || x.weights[id][u] != nil {
			continue
		}
		s := x.store(w, u, image)
		kept = kept || len(s.f32) > 0 && len(image) > 0 && &s.f32[0] == &image[0]
		s.users, s.key = 1, x.weightKey(w, u)
		x.weights[id][u] = s
		if s.cached = cacheable(x.source); s.cached {
			e.cache[s.key] = s
		}
	}
	if !kept {
		kernel.Free(image)
	}
	return nil
}

// store makes one form of w from its image, stored rows in sequence. A float32
// table keeps the image itself.
func (x *executable) store(w *graph.Weight, u use, image []float32) *storedWeight {
	s := &storedWeight{}
	switch u {
	case forward:
		s.packed = x.pack(w.In, w.Out, image, w.StoredCols(), w.Transposed)
	case backward:
		s.packed = x.pack(w.Out, w.In, image, w.StoredCols(), !w.Transposed)
	case squares:
		s.squares = columnSquares(x.e.opt.BaseDType, w, image)
	case vector:
		s.f32 = kernel.Alloc(len(image))
		copy(s.f32, image)
	case gathered:
		if w.Transposed {
			t := kernel.Alloc(len(image))
			kernel.Transpose(t, w.Out, image, w.In, w.Out, w.In)
			image = t
		}
		s.f32 = image
		if x.e.opt.BaseDType != "f32" {
			x.shrink(s, w.In, w.Out)
			if w.Transposed {
				kernel.Free(image)
			}
		}
	}
	return s
}

// shrink replaces the float32 rows of a table, (rows, cols), by smaller ones.
func (x *executable) shrink(s *storedWeight, rows, cols int) {
	image := s.f32
	s.f32 = nil
	if x.e.opt.BaseDType == "bf16" {
		s.half = make([]byte, 2*len(image))
		kernel.F32ToBF16(s.half, image)
		return
	}
	s.bytes8, s.scales = make([]int8, len(image)), make([]float32, rows)
	x.eachRows(rows, cols, func(_, lo, hi int) {
		for i := lo; i < hi; i++ {
			s.scales[i] = kernel.F32ToInt8(s.bytes8[i*cols:][:cols], image[i*cols:][:cols])
		}
	})
}

func (x *executable) weightKey(w *graph.Weight, u use) weightKey {
	k := weightKey{name: w.Name, in: w.In, out: w.Out, transposed: w.Transposed, use: u, kernels: kernel.Selected()}
	if cacheable(x.source) {
		k.source = x.source
	}
	return k
}

// cacheable reports whether a source can be told from another.
func cacheable(w graph.WeightSource) bool {
	return w != nil && reflect.TypeOf(w).Comparable()
}

// readWeight fills image with all stored rows of w, read by all threads.
func (x *executable) readWeight(w *graph.Weight, image []float32) error {
	rows, cols := w.StoredRows(), w.StoredCols()
	per := max(1, readElems/max(cols, 1))
	jobs := (rows + per - 1) / per
	errs := make([]error, jobs)
	x.pool.Run(jobs, func(_, j int) {
		lo, hi := j*per, min((j+1)*per, rows)
		errs[j] = x.source.ReadRows(w, lo, hi, image[lo*cols:hi*cols])
	})
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cpu: weight %s: %w", w.Name, err)
	}
	return nil
}

// readElems is how much of a weight one call of ReadRows asks for: 4 MiB.
const readElems = 1 << 20

// pack packs a matrix (k, n), or (n, k) if transposed, as the engine's base
// dtype.
func (x *executable) pack(k, n int, image []float32, ld int, transposed bool) *kernel.PackedB {
	row := func(dst []float32, i int) { copy(dst, image[i*ld:][:len(dst)]) }
	switch x.e.opt.BaseDType {
	case "bf16":
		if x.e.opt.Precision == "f32" {
			return kernel.PackBStoredBF16(x.pool, k, n, transposed, row)
		}
		return kernel.PackBBF16(x.pool, k, n, transposed, row)
	case "int8":
		return kernel.PackBInt8(x.pool, k, n, transposed, row)
	}
	return kernel.PackB(x.pool, k, n, image, ld, transposed)
}

// columnSquares returns Σ_i W[i, j]² for every column j of the logical W, rounded
// as pack rounds it: norms are those of the matrix that the products use.
func columnSquares(dtype string, w *graph.Weight, image []float32) []float64 {
	s := make([]float64, w.Out)
	if dtype == "f32" && !w.Transposed {
		for i := range w.In {
			for j, v := range image[i*w.Out:][:w.Out] {
				s[j] += float64(v) * float64(v)
			}
		}
		return s
	}
	column, half, bytes8 := make([]float32, w.In), make([]byte, 2*w.In), make([]int8, w.In)
	for j := range s {
		if w.Transposed {
			copy(column, image[j*w.In:])
		} else {
			for i := range column {
				column[i] = image[i*w.Out+j]
			}
		}
		switch dtype {
		case "bf16":
			kernel.F32ToBF16(half, column)
			kernel.BF16ToF32(column, half)
		case "int8":
			kernel.Int8ToF32(column, bytes8, kernel.F32ToInt8(bytes8, column))
		}
		s[j] = kernel.SumSquares(column)
	}
	return s
}

// releaseWeights gives back what no other executable holds.
func (x *executable) releaseWeights() {
	x.e.mu.Lock()
	defer x.e.mu.Unlock()
	for i := range x.weights {
		for u, s := range x.weights[i] {
			if s == nil {
				continue
			}
			x.weights[i][u] = nil
			if s.users--; s.users > 0 {
				continue
			}
			if s.cached {
				delete(x.e.cache, s.key)
			}
			s.free()
		}
	}
}

// weightBytes is the memory of all weights that x holds.
func (x *executable) weightBytes() int64 {
	var n int64
	for i := range x.weights {
		for u, s := range x.weights[i] {
			if s != nil && s.key.use == use(u) { // else a table that is tied
				n += s.bytes()
			}
		}
	}
	return n
}

// vectorOf returns a bias or norm scale; nil for NoWeight.
func (x *executable) vectorOf(w graph.WeightID) []float32 {
	if w == graph.NoWeight {
		return nil
	}
	return x.weights[w][vector].f32
}

func (x *executable) packedOf(w graph.WeightID, u use) *kernel.PackedB { return x.weights[w][u].packed }
