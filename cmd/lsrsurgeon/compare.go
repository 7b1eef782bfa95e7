package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/merge"
	"github.com/lsrsurgeon/lsrsurgeon/model"
	"github.com/lsrsurgeon/lsrsurgeon/task"
)

// comparison is the proof of a merge: the outputs of base and adapter against
// those of the merged model on the same tokens.
type comparison struct {
	What          string  `json:"what"` // logits or hidden states
	Rows          int     `json:"rows"`
	MaxDifference float64 `json:"max_difference"`
	MaxOutput     float64 `json:"max_output"`
	Agreement     float64 `json:"agreement"` // share of rows whose largest output is the same
	// Kullback-Leibler divergence, in nats, of the distribution that the merged
	// model's logits mean from that of base and adapter: over rows, mean and largest.
	MeanKL    float64 `json:"mean_kl"`
	MaxKL     float64 `json:"max_kl"`
	Tolerance float64 `json:"tolerance"`
	OK        bool    `json:"ok"`
}

// compareMerged runs both models on fixed random tokens.
func compareMerged(ctx context.Context, a *app, base *formats.Checkpoint, ad *adapter.Adapter, o *mergeOptions) (*comparison, error) {
	merged, err := a.open(o.out)
	if err != nil {
		return nil, err
	}
	defer merged.Close()
	bm, err := openBase(base)
	if err != nil {
		return nil, withHint(err, "--check needs a model of a known family")
	}
	mm, err := openBase(merged)
	if err != nil {
		return nil, err
	}
	opt := model.BuildOptions{Task: model.TaskFeatures}
	what := "hidden states"
	switch {
	case len(ad.Head) > 0:
		opt.Task, what = model.TaskClassification, "logits"
	case ad.TaskType == "CAUSAL_LM":
		opt.Task, what = model.TaskLM, "logits"
	}
	batch := randomBatch(bm.Config())
	withAdapter := opt
	withAdapter.Adapter = ad
	x, cols, err := outputsOf(ctx, a, bm, withAdapter, o, batch)
	if err != nil {
		return nil, err
	}
	y, colsY, err := outputsOf(ctx, a, mm, opt, o, batch)
	if err != nil {
		return nil, err
	}
	if cols != colsY {
		return nil, fmt.Errorf("%w: %s has %d %s a token and base and adapter have %d: it is no merge of these", merge.ErrMismatch, merged.Path(), colsY, what, cols)
	}
	c := compareOutputs(x, y, cols)
	c.What, c.Tolerance = what, o.tolerance
	if what == "logits" {
		c.MeanKL, c.MaxKL = divergence(x, y, cols)
	}
	if c.Tolerance == 0 {
		c.Tolerance = 1e-4
		if dt := merged.Tensors()[0].DType; o.dtype == "bf16" || o.dtype == "f16" || o.dtype == "keep" && dt.Bits() < 32 {
			c.Tolerance = 0.05 * c.MaxOutput // what rounding the weights to 8 or 11 bits costs
		}
	}
	c.OK = c.MaxDifference <= c.Tolerance
	return c, nil
}

// randomBatch are 8 sequences of 5 to 40 tokens, the same on every run.
func randomBatch(c model.Config) *graph.Batch {
	r := rand.New(rand.NewPCG(20, 26))
	b := &graph.Batch{CuSeqlens: []int32{0}, LossScale: 1}
	for i := range 8 {
		n := min(5+5*i, max(c.MaxLength, 1))
		for t := range n {
			b.IDs = append(b.IDs, int32(r.IntN(c.VocabSize)))
			b.Positions = append(b.Positions, int32(t))
		}
		b.CuSeqlens = append(b.CuSeqlens, int32(len(b.IDs)))
	}
	return b
}

// outputsOf runs a forward program and returns its outputs, a row after the
// other.
func outputsOf(ctx context.Context, a *app, m baseModel, opt model.BuildOptions, o *mergeOptions, b *graph.Batch) (out []float32, cols int, err error) {
	built, err := m.Build(opt)
	if err != nil {
		return nil, 0, err
	}
	e, err := o.engineFlags.open(a)
	if err != nil {
		return nil, 0, err
	}
	exe, err := e.Compile(built.Program, built.Weights, b.Dims())
	if err != nil {
		return nil, 0, err
	}
	defer exe.Close()
	if err := exe.SetParams(built.Params); err != nil {
		return nil, 0, err
	}
	if err := exe.Run(ctx, b); err != nil {
		return nil, 0, err
	}
	v := built.Logits
	if v == graph.None {
		v = built.Hidden
	}
	in := built.Program.Info(v)
	out = make([]float32, in.Rows.Count(b.Dims())*in.Cols)
	return out, in.Cols, exe.Read(v, out)
}

func compareOutputs(x, y []float32, cols int) *comparison {
	c := &comparison{Rows: len(x) / cols}
	same := 0
	for i := 0; i < len(x); i += cols {
		if task.Argmax(x[i:i+cols]) == task.Argmax(y[i:i+cols]) {
			same++
		}
	}
	c.Agreement = float64(same) / float64(max(c.Rows, 1))
	for i := range x {
		c.MaxDifference = math.Max(c.MaxDifference, math.Abs(float64(x[i])-float64(y[i])))
		c.MaxOutput = math.Max(c.MaxOutput, math.Abs(float64(x[i])))
	}
	return c
}

// divergence is Σ p log(p/q) of the softmaxes p of x and q of y, row by row:
// the mean and the largest.
func divergence(x, y []float32, cols int) (mean, largest float64) {
	rows := len(x) / cols
	for i := range rows {
		p, q := x[i*cols:][:cols], y[i*cols:][:cols]
		lp, lq := task.LogSumExp(p), task.LogSumExp(q)
		kl := 0.0
		for k := range p {
			d := float64(p[k]) - lp
			kl += math.Exp(d) * (d - (float64(q[k]) - lq))
		}
		kl = max(kl, 0) // rounding may take it below
		mean += kl / float64(rows)
		largest = max(largest, kl)
	}
	return mean, largest
}
