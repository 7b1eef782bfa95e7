package train

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// ErrNoPrefix is wrapped by the error of [CachePrefix] for an adapter below
// which there is no frozen layer.
var ErrNoPrefix = errors.New("there is no frozen prefix to cache")

// Prefix is what lies below the first adapted layer: a program whose output
// the programs of a [Job] take as their input.
type Prefix struct {
	Program *graph.Program
	Weights graph.WeightSource
	// Parts are the states that enter layer Layers, (T, hidden size), and perhaps
	// what that layer's frozen attention weights make of them: Width columns
	// together.
	Parts         []graph.Value
	Layers, Width int
}

// PrefixOptions say where the results of a prefix are kept.
type PrefixOptions struct {
	// Dir is the directory of the cache's file; "" means memory. The file is
	// gone when the run ends, however it ends, where the system lets an open
	// file be removed.
	Dir string
	// Limit is the largest size in bytes, 0 for none. Sequences beyond it are
	// computed anew each time.
	Limit int64
}

// CachePrefix cuts the programs of j, which Prepare made with the same
// arguments, at the first adapted layer: below it the forward pass runs once
// for each sequence of the data, and from then on the layers above alone, in
// training and in evaluation. Where limit bytes (0: any number) hold them for
// the data of j, which must be set before, the products of the first adapted
// layer's frozen query, key and value weights are kept as well.
//
// Below the cut there is no dropout then, in the embeddings neither. Without
// dropout the losses are those of the whole program, bit for bit on an engine
// whose rows do not depend on the rest of the batch.
func CachePrefix(j *Job, m Base, a *adapter.Adapter, o model.BuildOptions, limit int64) error {
	first, err := firstLayer(a)
	if err != nil {
		return err
	}
	below := func(projections bool) (*Prefix, error) {
		b, err := m.Build(model.BuildOptions{Task: model.TaskFeatures, Until: first, Projections: projections})
		if err != nil {
			return nil, err
		}
		p := &Prefix{Program: b.Program, Weights: b.Weights, Layers: first, Parts: append([]graph.Value{b.Hidden}, b.Projections...)}
		for _, v := range p.Parts {
			p.Width += b.Program.Info(v).Cols
		}
		return p, nil
	}
	p, err := below(true)
	if err == nil && limit > 0 && 4*int64(j.tokens())*int64(p.Width) > limit {
		p, err = below(false)
	}
	if err != nil {
		return err
	}
	o.From, o.Projections = first, len(p.Parts) > 1
	upper, err := Prepare(m, a, j.Spec, o)
	if err != nil {
		return err
	}
	j.Train, j.Eval, j.Save, j.Prefix = upper.Train, upper.Eval, upper.Save, p
	return nil
}

// tokens are those of all data.
func (j *Job) tokens() (n int) {
	for _, d := range []*task.Dataset{j.Data, j.EvalData} {
		if d != nil {
			n += d.Tokens()
		}
	}
	return n
}

// firstLayer is the lowest layer that a has a module in.
func firstLayer(a *adapter.Adapter) (int, error) {
	first := -1
	for i := range a.Modules {
		if l := a.Modules[i].Site.Layer; l >= 0 && (first < 0 || l < first) {
			first = l
		}
	}
	switch first {
	case -1:
		return 0, fmt.Errorf("%w: the adapter has no module in a layer; adapt the upper layers alone", ErrNoPrefix)
	case 0:
		return 0, fmt.Errorf("%w: the adapter begins in layer 0; adapt the upper layers alone", ErrNoPrefix)
	}
	return first, nil
}

// prefixRun is a prefix on the device, and the place that caches share.
type prefixRun struct {
	p    *Prefix
	exe  graph.Executable
	room int64    // bytes that are left
	file *os.File // nil: in memory
	gone bool     // the file has no name any more
	end  int64    // of the file
	buf  []byte
}

// newPrefixRun compiles the prefix for batches of at most d; larger ones take
// more memory when they come.
func newPrefixRun(e graph.Engine, p *Prefix, o PrefixOptions, d task.Dims) (*prefixRun, error) {
	r := &prefixRun{p: p, room: math.MaxInt64}
	if o.Limit > 0 {
		r.room = o.Limit
	}
	var err error
	if r.exe, err = e.Compile(p.Program, p.Weights, maxDims(d)); err != nil {
		return nil, err
	}
	if o.Dir == "" {
		return r, nil
	}
	if r.file, err = os.CreateTemp(o.Dir, "prefix-*.f32"); err != nil {
		r.exe.Close()
		return nil, err
	}
	r.gone = os.Remove(r.file.Name()) == nil // where this is refused, close does it
	return r, nil
}

// close frees the device memory and the file.
func (r *prefixRun) close() {
	r.exe.Close()
	if r.file != nil {
		r.file.Close()
		if !r.gone {
			os.Remove(r.file.Name())
		}
	}
}

// prefixCache holds the hidden states of the sequences of a dataset.
type prefixCache struct {
	*prefixRun
	data *task.Dataset
	kept [][]float32 // by sequence, in memory
	at   []int64     // by sequence, the place in the file, -1 if it is not there

	batch    task.Batch
	missing  []int32
	computed []float32
	part     []float32
	inputs   []float32
}

// cache returns an empty cache for data.
func (r *prefixRun) cache(data *task.Dataset) *prefixCache {
	c := &prefixCache{prefixRun: r, data: data}
	if r.file == nil {
		c.kept = make([][]float32, data.Len())
		return c
	}
	c.at = slices.Repeat([]int64{-1}, data.Len())
	return c
}

// has reports whether the cache holds sequence s.
func (c *prefixCache) has(s int32) bool {
	if c.file != nil {
		return c.at[s] >= 0
	}
	return c.kept[s] != nil
}

// fill returns the hidden states (T, Width) of the sequences of b, valid until
// the next call.
func (c *prefixCache) fill(ctx context.Context, b *task.Batch) ([]float32, error) {
	if err := c.compute(ctx, b); err != nil {
		return nil, err
	}
	c.inputs = resize(c.inputs, len(b.IDs)*c.p.Width)
	rest := c.computed
	for i, s := range b.Sequences {
		dst := c.inputs[int(b.CuSeqlens[i])*c.p.Width : int(b.CuSeqlens[i+1])*c.p.Width]
		if c.has(s) {
			if err := c.load(dst, s); err != nil {
				return nil, err
			}
			continue
		}
		copy(dst, rest[:len(dst)])
		rest = rest[len(dst):]
		if err := c.store(dst, s); err != nil {
			return nil, err
		}
	}
	return c.inputs, nil
}

// compute runs the prefix on the sequences of b that the cache lacks.
func (c *prefixCache) compute(ctx context.Context, b *task.Batch) error {
	c.missing = c.missing[:0]
	for _, s := range b.Sequences {
		if !c.has(s) {
			c.missing = append(c.missing, s)
		}
	}
	if len(c.missing) == 0 {
		return nil
	}
	c.data.Fill(&c.batch, c.missing)
	var gb graph.Batch
	batch(&gb, &c.batch)
	if err := c.exe.Run(ctx, &gb); err != nil {
		return err
	}
	rows := len(c.batch.IDs)
	c.computed = resize(c.computed, rows*c.p.Width)
	col := 0
	for _, v := range c.p.Parts {
		n := c.p.Program.Info(v).Cols
		c.part = resize(c.part, rows*n)
		if err := c.exe.Read(v, c.part); err != nil {
			return err
		}
		for i := range rows {
			copy(c.computed[i*c.p.Width+col:][:n], c.part[i*n:])
		}
		col += n
	}
	return nil
}

// resize returns a slice of n floats, v's memory if it is large enough.
func resize(v []float32, n int) []float32 {
	if cap(v) < n {
		return make([]float32, n)
	}
	return v[:n]
}

// store keeps the states of sequence s if there is room.
func (c *prefixCache) store(v []float32, s int32) error {
	n := 4 * int64(len(v))
	if n > c.room {
		return nil
	}
	c.room -= n
	if c.file == nil {
		c.kept[s] = append(make([]float32, 0, len(v)), v...)
		return nil
	}
	c.buf = c.buf[:0]
	for _, x := range v {
		c.buf = binary.LittleEndian.AppendUint32(c.buf, math.Float32bits(x))
	}
	if _, err := c.file.WriteAt(c.buf, c.end); err != nil {
		return fmt.Errorf("the cache of the frozen prefix cannot be written; lower its limit or give another directory: %w", err)
	}
	c.at[s] = c.end
	c.end += n
	return nil
}

// load reads the states of sequence s.
func (c *prefixCache) load(dst []float32, s int32) error {
	if c.file == nil {
		copy(dst, c.kept[s])
		return nil
	}
	if cap(c.buf) < 4*len(dst) {
		c.buf = make([]byte, 4*len(dst))
	}
	b := c.buf[:4*len(dst)]
	if _, err := c.file.ReadAt(b, c.at[s]); err != nil {
		return fmt.Errorf("the cache of the frozen prefix cannot be read: %w", err)
	}
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return nil
}
