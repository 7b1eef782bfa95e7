package cpu

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
)

// small is an encoder that runs in milliseconds.
var small = encoder{hidden: 64, inter: 96, layers: 2, heads: 4, vocab: 50, adapter: "lora"}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string // part of the error, or empty
	}{
		{Options{}, ""},
		{Options{Threads: 3, Precision: "f32", BaseDType: "int8"}, ""},
		{Options{Precision: "bf16"}, ""},
		{Options{Threads: -1}, "-1 threads"},
		{Options{Precision: "f16"}, `precision "f16" is unknown; choose f32 or bf16`},
		{Options{BaseDType: "int4"}, `base dtype "int4" is unknown; choose f32, bf16 or int8`},
		{Options{BaseDType: "bf16"}, ""},
		{Options{Precision: "bf16", BaseDType: "int8"}, "does not go with precision bf16"},
	} {
		_, err := New(c.o)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%+v: %v", c.o, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%+v: error %v, want one with %q", c.o, err, c.want)
		}
	}
}

// rounded is a weight source after the rounding that a base dtype stands for.
type rounded struct {
	noise
	dtype string
}

func (r rounded) ReadRows(w *graph.Weight, lo, hi int, dst []float32) error {
	if err := r.noise.ReadRows(w, lo, hi, dst); err != nil || w.In == 1 {
		return err
	}
	switch {
	case r.dtype == "bf16":
		half := make([]byte, 2*len(dst))
		kernel.F32ToBF16(half, dst)
		kernel.BF16ToF32(dst, half)
	case r.dtype == "int8":
		// Stored rows are output channels, or entries of a table: one scale each.
		n := w.StoredCols()
		for i := 0; i < len(dst); i += n {
			s := kernel.MaxAbs(dst[i:i+n]) / 127
			for j := range n {
				dst[i+j] = s * float32(math.RoundToEven(float64(dst[i+j]/s)))
			}
		}
	}
	return nil
}

// A reduced base computes the forward pass of the rounded weights: exactly
// those of int8, whose activations stay float32, and with activations rounded
// to 8 bits as well for bf16. Gradients of bf16 stay close to those of the
// rounded model; int8 rounds Wᵀ by its own columns and stays close to the
// unrounded one. bf16 as a base alone rounds both alike and nothing else.
func TestReducedBase(t *testing.T) {
	p := small.program(t)
	b := newBatch(small.vocab, 9, 1, 17)
	b.Train = false
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, c := range []struct {
			o         Options
			out, grad float64
		}{
			{Options{Precision: "bf16"}, 0.02, 0.05},
			{Options{BaseDType: "bf16"}, 1e-4, 1e-4},
			{Options{BaseDType: "int8"}, 1e-4, 0.05},
		} {
			e, err := New(c.o)
			if err != nil {
				t.Fatal(err)
			}
			dtype := e.(*engine).opt.BaseDType
			x := compile(t, c.o, p, noise{}, b.Dims())
			plain := compile(t, Options{}, p, noise{}, b.Dims())
			if x.PeakBytes() >= plain.PeakBytes() {
				t.Errorf("%s takes %d bytes, f32 %d", dtype, x.PeakBytes(), plain.PeakBytes())
			}
			want, err := reference.New().Load(p, rounded{dtype: dtype})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range []graph.Executable{want, x} {
				if err := errors.Join(r.SetParams(start(p)), r.Run(t.Context(), b)); err != nil {
					t.Fatal(err)
				}
			}
			out, grads := make([]float32, 2*3), make([]float32, p.ParamSize)
			if err := errors.Join(x.Read(p.Outputs[0], out), x.Grads(grads)); err != nil {
				t.Fatal(err)
			}
			if d := distance(out, want.Float64(p.Outputs[0])); !(d < c.out) {
				t.Errorf("%s: logits differ by %.2g of their size", dtype, d)
			}
			if d := distance(grads, want.GradsFloat64()); !(d < c.grad) {
				t.Errorf("%s: gradients differ by %.2g of their size", dtype, d)
			}
		}
	})
}

// distance is |got - want| / |want|.
func distance(got []float32, want []float64) float64 {
	var d, w float64
	for i := range want {
		d += (float64(got[i]) - want[i]) * (float64(got[i]) - want[i])
		w += want[i] * want[i]
	}
	return math.Sqrt(d / w)
}

// Sequences of several tiles of queries and of keys, in every kind of mask.
func TestAttentionTiles(t *testing.T) {
	lens := []int{2*keyTile + 5, queryTile + 1}
	for name, c := range map[string]graph.Attention{
		"full, grouped":             {Heads: 2, KVHeads: 1, HeadDim: 4},
		"causal, dropout":           {Heads: 2, KVHeads: 2, HeadDim: 4, Causal: true, DropP: 0.2},
		"causal, grouped, window":   {Heads: 4, KVHeads: 2, HeadDim: 4, Causal: true, Window: keyTile - 9, DropP: 0.1},
		"causal, window":            {Heads: 1, KVHeads: 1, HeadDim: 4, Causal: true, Window: 70},
		"window, negative, dropout": {Heads: 1, KVHeads: 1, HeadDim: 4, Window: keyTile, Scale: -0.4, DropP: 0.1},
		"last query, window":        {Heads: 2, KVHeads: 1, HeadDim: 4, QueryPick: graph.PickLast, Causal: true, Window: 30},
		"first query, causal":       {Heads: 2, KVHeads: 1, HeadDim: 4, QueryPick: graph.PickFirst, Causal: true},
	} {
		t.Run(name, func(t *testing.T) {
			if c.Scale == 0 {
				c.Scale = 1.5
			}
			p := attentionProgram(t, c)
			b := newBatch(97, lens...)
			b.Targets = make([]float32, 2*c.Heads*c.HeadDim)
			want, err := reference.New().Load(p, noise{})
			if err != nil {
				t.Fatal(err)
			}
			x, y := compile(t, Options{Threads: 1}, p, noise{}, b.Dims()), compile(t, Options{Threads: 3}, p, noise{}, b.Dims())
			w := start(p)
			kernel.Scale(30, w)
			for _, r := range []graph.Executable{want, x, y} {
				if err := errors.Join(r.SetParams(w), r.Run(t.Context(), b)); err != nil {
					t.Fatal(err)
				}
			}
			got, three := make([]float32, p.ParamSize), make([]float32, p.ParamSize)
			if err := errors.Join(x.Grads(got), y.Grads(three)); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, three) {
				t.Error("one and three threads give different gradients")
			}
			if d := distance(got, want.GradsFloat64()); !(d < 1e-5) {
				t.Errorf("gradients differ by %.2g of their size", d)
			}
			n := p.Outputs[0]
			out := make([]float32, len(want.Float64(n)))
			if err := x.Read(n, out); err != nil {
				t.Fatal(err)
			}
			if d := distance(out, want.Float64(n)); !(d < 2e-6) {
				t.Errorf("results differ by %.2g of their size", d)
			}
		})
	}
}

// attentionProgram is embeddings, trained projections, attention and a loss on
// the mean of each sequence.
func attentionProgram(t *testing.T, c graph.Attention) *graph.Program {
	b := graph.NewBuilder()
	const hidden = 6
	x := b.Embed("x", []graph.WeightID{b.Weight("words", 97, hidden, false)}, []graph.Stream{graph.StreamIDs}, []int{0})
	project := func(name string, x graph.Value, cols int) graph.Value {
		x = b.Axpby(name+".x", 40, x, 0, graph.None)
		return b.MatMul(name, x, b.Param(name+".w", []int{hidden, cols}, hidden, cols), false, false, 1, graph.None)
	}
	q := project("q", b.Select("rows", x, c.QueryPick), c.Heads*c.HeadDim)
	y := b.Attention("y", q, project("k", x, c.KVHeads*c.HeadDim), project("v", x, c.KVHeads*c.HeadDim), c)
	b.Output(y)
	if c.QueryPick == graph.PickAll {
		y = b.MeanPool("mean", y)
	}
	b.SetLoss(b.MSE(y))
	if err := graph.Differentiate(b.P); err != nil {
		t.Fatal(err)
	}
	return b.P
}

// A language model's head over several chunks of rows.
func TestLMLossInChunks(t *testing.T) {
	const hidden, vocab = 8, 211
	b := graph.NewBuilder()
	h := b.Embed("x", []graph.WeightID{b.Weight("words", 50, hidden, false)}, []graph.Stream{graph.StreamIDs}, []int{0})
	h = b.MatMul("h", b.Select("rows", h, graph.PickRows), b.Param("w", []int{hidden, hidden}, hidden, hidden), false, false, 100, graph.None)
	b.SetLoss(b.LMLoss(h, b.Weight("head", hidden, vocab, true), b.Vector("bias", vocab)))
	if err := graph.Differentiate(b.P); err != nil {
		t.Fatal(err)
	}
	bt := newBatch(50, 30, 33)
	bt.Labels = nil
	for i := range 61 {
		bt.Rows = append(bt.Rows, int32(i+1))
		bt.Labels = append(bt.Labels, int32(i*i*1009%(vocab+1)-1))
	}
	e := open(Options{})(t).(*engine)
	e.lmLogits = 24 * vocab // 24 rows at a time
	x, err := e.Compile(b.P, noise{}, bt.Dims())
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := x.SetParams(start(b.P)); err != nil {
		t.Fatal(err)
	}
	one := func(bt *graph.Batch) (float64, []float32) {
		loss, g := make([]float32, 1), make([]float32, b.P.ParamSize)
		if err := errors.Join(x.ZeroGrads(), x.Run(t.Context(), bt), x.Read(b.P.Loss, loss), x.Grads(g)); err != nil {
			t.Fatal(err)
		}
		return float64(loss[0]), g
	}
	loss, grads := one(bt)
	// The same rows in batches that fit one chunk.
	var want float64
	sum := make([]float64, len(grads))
	for lo := 0; lo < len(bt.Rows); lo += 20 {
		part := *bt
		part.Rows, part.Labels = bt.Rows[lo:min(lo+20, 61)], bt.Labels[lo:min(lo+20, 61)]
		l, g := one(&part)
		want += l
		for i := range g {
			sum[i] += float64(g[i])
		}
	}
	if math.Abs(loss-want) > 1e-6*want {
		t.Errorf("loss %v in chunks, %v in small batches", loss, want)
	}
	if d := distance(grads, sum); !(d < 1e-6) {
		t.Errorf("gradients differ by %.2g of their size", d)
	}
}

func TestCancel(t *testing.T) {
	p := small.program(t)
	b := newBatch(small.vocab, 4)
	x := compile(t, Options{}, p, noise{}, b.Dims())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := x.Run(ctx, b); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "operation 0 of") {
		t.Errorf("error %v, want context.Canceled before operation 0", err)
	}
	if err := x.Read(p.Loss, make([]float32, 1)); err == nil {
		t.Error("the loss of an unfinished run could be read")
	}
}

// failing refuses to read one tensor.
type failing struct {
	noise
	name string
}

var errDisk = errors.New("disk on fire")

func (f failing) ReadRows(w *graph.Weight, lo, hi int, dst []float32) error {
	if w.Name == f.name {
		return errDisk
	}
	return f.noise.ReadRows(w, lo, hi, dst)
}

func TestUnreadableWeight(t *testing.T) {
	e := open(Options{})(t).(*engine)
	_, err := e.Compile(small.program(t), failing{name: "1.up"}, graph.Dims{T: 4, S: 1, MaxLen: 4})
	if !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "1.up") {
		t.Errorf("error %v, want the disk's with the tensor 1.up", err)
	}
	if len(e.cache) != 0 {
		t.Errorf("%d weights are left after the failure", len(e.cache))
	}
}

func TestWeightsAreShared(t *testing.T) {
	e := open(Options{})(t).(*engine)
	d := graph.Dims{T: 8, S: 2, MaxLen: 4}
	forwardOnly := small
	forwardOnly.adapter = ""
	a, err := e.Compile(small.program(t), noise{}, d)
	if err != nil {
		t.Fatal(err)
	}
	n := len(e.cache)
	b, err := e.Compile(forwardOnly.program(t), noise{}, d)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.cache) != n {
		t.Errorf("an evaluation program of the same model added %d weights to %d", len(e.cache)-n, n)
	}
	other, err := e.Compile(forwardOnly.program(t), noise{seed: 1}, d)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.cache) <= n {
		t.Error("weights of another source were taken for those of the first")
	}
	// Closing one leaves the other's weights alone.
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.SetParams(make([]float32, forwardOnly.program(t).ParamSize)), b.Run(t.Context(), newBatch(small.vocab, 4, 4))); err != nil {
		t.Error(err)
	}
	if err := errors.Join(b.Close(), other.Close()); err != nil || len(e.cache) != 0 {
		t.Errorf("%d weights are left after all were closed (%v)", len(e.cache), err)
	}
}

func TestMemoryLimit(t *testing.T) {
	p := small.program(t)
	d := graph.Dims{T: 4096, S: 64, MaxLen: 64}
	need := compile(t, Options{}, p, noise{}, d).PeakBytes()
	compile(t, Options{MemoryLimit: need}, p, noise{}, d)
	// Padding of packed matrices and losses are all that an estimate leaves out.
	m := graph.SizeOf(open(Options{})(t), p, d)
	if got := m.Total(); got > need || 10*got < 9*need || m.Weights <= 0 || m.Plan <= 0 || m.Scratch <= 0 {
		t.Errorf("estimated %+v, %d together, and %d are taken", m, got, need)
	}
	for limit, want := range map[int64]string{
		need * 2 / 3: "sequences would fit",
		1 << 18:      "one sequence already takes",
	} {
		_, err := open(Options{MemoryLimit: limit})(t).Compile(p, noise{}, d)
		if !errors.Is(err, syscall.ENOMEM) || !strings.Contains(err.Error(), want) {
			t.Errorf("limit %d of %d: error %v, want one with %q", limit, need, err, want)
			continue
		}
		var tokens, seqs, fitTokens, fitSeqs int
		if i := strings.Index(err.Error(), " are needed"); want == "sequences would fit" {
			_, scan := fmt.Sscanf(err.Error()[i:], " are needed for %d tokens in %d sequences", &tokens, &seqs)
			j := strings.LastIndex(err.Error(), "; ")
			_, scan2 := fmt.Sscanf(err.Error()[j:], "; %d tokens in %d sequences", &fitTokens, &fitSeqs)
			if scan != nil || scan2 != nil || tokens != d.T || seqs != d.S {
				t.Fatalf("message %q", err)
			}
			fit := compile(t, Options{MemoryLimit: limit}, p, noise{}, graph.Dims{T: fitTokens, S: fitSeqs, MaxLen: 64})
			if fit.PeakBytes() > limit {
				t.Errorf("the batch that fits %d bytes takes %d", limit, fit.PeakBytes())
			}
		}
	}
}

func TestStepRefusesBrokenGradients(t *testing.T) {
	p := small.program(t)
	x := compile(t, Options{}, p, noise{}, graph.Dims{T: 4, S: 1, MaxLen: 4})
	g, w := make([]float32, p.ParamSize), make([]float32, p.ParamSize)
	g[3] = float32(math.NaN())
	if err := x.SetGrads(g); err != nil {
		t.Fatal(err)
	}
	norm, err := x.Step(graph.AdamW{LR: 1, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, T: 1})
	if err == nil || !math.IsNaN(norm) {
		t.Errorf("norm %v, error %v; want NaN and an error", norm, err)
	}
	if err := errors.Join(x.Params(w), x.Grads(g)); err != nil {
		t.Fatal(err)
	}
	for i, v := range start(p) {
		if w[i] != v || g[i] != 0 {
			t.Fatalf("parameter %d is %v, was %v; gradient %v", i, w[i], v, g[i])
		}
	}
}

func TestProfile(t *testing.T) {
	p := small.program(t)
	b := newBatch(small.vocab, 10, 3)
	x := compile(t, Options{}, p, noise{}, b.Dims())
	prof := x.(graph.Profiler)
	if prof.Profile() != nil {
		t.Error("a profile before it was started")
	}
	prof.StartProfile()
	for range 2 {
		if err := x.Run(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	calls := map[string]graph.OpTime{}
	for _, o := range prof.Profile() {
		calls[o.Op] = o
	}
	// Two layers; in the last one, query, output and feed-forward see two rows.
	const h, f = 64, 96
	flop := 2.0 * 2 * (13*h*(4*h+2*f) + 13*h*2*h + 2*h*(2*h+2*f))
	if got := calls["linear"]; got.Calls != 2*12 || got.FLOP != flop || !(got.Seconds > 0) {
		t.Errorf("linear: %+v, want 24 calls with %v operations", got, flop)
	}
	pairs := 2.0 * (10*10 + 3*3 + 10 + 3) // both runs, both layers
	if got := calls["attention"]; got.Calls != 4 || got.FLOP != 4*h*pairs {
		t.Errorf("attention: %+v, want 4 calls with %v operations", got, 4*h*pairs)
	}
}
