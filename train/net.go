package train

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// Net is a program with the values that are read of it.
type Net struct {
	Program *graph.Program
	Weights graph.WeightSource
	// Params are the values of the flat parameter buffer at the start.
	Params []float32
	// Logits are the outputs of a classification or regression (S, outputs),
	// None for a language model, whose program has a loss.
	Logits graph.Value
}

// Job is what is trained on what.
type Job struct {
	Engine graph.Engine
	// Train is the forward program with its loss and dropout; New adds the
	// backward pass to it.
	Train Net
	// Prefix, if not nil, computes the input of Train and Eval; see CachePrefix.
	Prefix *Prefix
	// Eval is the same model without dropout. Its parameters have the same names
	// and sizes. It is needed with EvalData only.
	Eval Net

	Spec         task.Spec
	Data         *task.Dataset
	EvalData     *task.Dataset // nil means no evaluation
	EvalExamples []task.Example

	// Save writes the adapter with the given values of Train's flat parameter
	// buffer to a directory that does not exist yet.
	Save func(dir string, params []float32) error
}

// maxDims returns the compiled maxima for batches of at most d.
func maxDims(d task.Dims) graph.Dims {
	return graph.Dims{T: d.Tokens, S: d.Sequences, R: d.Rows, MaxLen: d.Longest}
}

// batch points dst at the data of b.
func batch(dst *graph.Batch, b *task.Batch) {
	dst.CuSeqlens, dst.IDs, dst.TypeIDs, dst.Positions = b.CuSeqlens, b.IDs, b.TypeIDs, b.Positions
	dst.Rows, dst.Labels, dst.Targets = b.Rows, b.Labels, b.Targets
}

// copyParams copies the values of from's flat buffer to to's, by name.
func copyParams(to *graph.Program, dst []float32, from *graph.Program, src []float32) error {
	at := map[string]*graph.Param{}
	for i := range from.Params {
		at[from.Params[i].Name] = &from.Params[i]
	}
	for i := range to.Params {
		p := &to.Params[i]
		q := at[p.Name]
		if q == nil || q.Size != p.Size {
			return fmt.Errorf("the evaluated program has a parameter %s of %d values that the trained one lacks", p.Name, p.Size)
		}
		copy(dst[p.Offset:p.Offset+p.Size], src[q.Offset:q.Offset+q.Size])
	}
	return nil
}

// programHash identifies what a program computes and where its parameters lie.
func programHash(p *graph.Program) string {
	h := sha256.New()
	for i := range p.Params {
		fmt.Fprintln(h, p.Params[i].NoDecay, p.Params[i].LRScale)
	}
	p.Dump(h) // a hash takes everything
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// valuesHash identifies values of parameters, bit for bit.
func valuesHash(v []float32) string {
	h := sha256.New()
	writeFloats(h, v)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// fingerprint identifies a dataset; "none" if there is none.
func fingerprint(d *task.Dataset) string {
	if d == nil {
		return "none"
	}
	h := d.Fingerprint()
	return hex.EncodeToString(h[:8])
}
