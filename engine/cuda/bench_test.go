package cuda

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

var (
	tiny      = flag.Bool("tiny", false, "BenchmarkStep: two narrow layers and short sequences, to try it without a GPU")
	stepsFile = flag.String("steps", "", "BenchmarkStep: append a line of JSON for every case to this file")
)

// flops counts the multiplications and additions of a run's matrix products, and
// of attention for the pairs that it sees: 4 for each pair and element forward,
// 10 backward.
func flops(p *graph.Program, batch *graph.Batch) float64 {
	d := batch.Dims()
	n := 0.0
	rows := func(v graph.Value) float64 { return float64(p.Info(v).Rows.Count(d)) }
	for _, op := range p.Ops {
		switch o := op.(type) {
		case *graph.Linear:
			w := p.Weight(o.W)
			n += 2 * rows(o.X) * float64(w.In) * float64(w.Out)
		case *graph.LinearGrad:
			w := p.Weight(o.W)
			n += 2 * rows(o.DY) * float64(w.In) * float64(w.Out)
		case *graph.LMLoss:
			w := p.Weight(o.W)
			n += 4 * rows(o.X) * float64(w.In) * float64(w.Out)
		case *graph.MatMul:
			inner := float64(p.Info(o.A).Cols)
			if o.TransA {
				inner = rows(o.A)
			}
			n += 2 * rows(o.Y) * float64(p.Info(o.Y).Cols) * inner
		case *graph.Attention:
			n += 4 * pairs(o, batch) * float64(o.Heads*o.HeadDim)
		case *graph.AttentionGrad:
			n += 10 * pairs(o.Fwd, batch) * float64(o.Fwd.Heads*o.Fwd.HeadDim)
		}
	}
	return n
}

// pairs counts the queries and keys of a batch that attention brings together.
func pairs(o *graph.Attention, b *graph.Batch) float64 {
	n := 0.0
	for i := 1; i < len(b.CuSeqlens); i++ {
		l := float64(b.CuSeqlens[i] - b.CuSeqlens[i-1])
		switch {
		case o.QueryPick != graph.PickAll:
			n += l
		case o.Causal:
			n += l * (l + 1) / 2
		default:
			n += l * l
		}
	}
	return n
}

// lengths are n lengths of about MRPC's sentence pairs, or all equal.
func lengths(n, equal int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = 32 + (i*29)%43 // 32 to 74, 53 on average
		if equal > 0 {
			out[i] = equal
		}
	}
	return out
}

// peaks are what tensor cores do at most, in TFLOP/s without sparsity, by a part
// of the GPU's name, as NVIDIA's data sheets say. The first match counts.
var peaks = []struct {
	name       string
	bf16, tf32 float64
}{
	{"H100 PCIe", 756, 378}, {"H100 NVL", 835, 417}, {"H100", 989, 494}, {"H200", 989, 494}, {"B200", 2250, 1125},
	{"A100", 312, 156}, {"A10G", 70, 35}, {"A10", 125, 62}, {"L40S", 362, 183}, {"L4", 121, 60}, {"RTX 4090", 165, 82},
}

// peak is that of a GPU in a precision, 0 where it is not known.
func peak(name, precision string) float64 {
	for _, p := range peaks {
		if strings.Contains(name, p.name) {
			return map[string]float64{"bf16": p.bf16, "tf32": p.tf32}[precision]
		}
	}
	return 0
}

// stepResult is a line of -steps.
type stepResult struct {
	Device      string  `json:"device"`
	Model       string  `json:"model"` // name/sequences
	Method      string  `json:"method"`
	Precision   string  `json:"precision"`
	Products    string  `json:"products"`
	Tokens      int     `json:"tokens"`
	Seconds     float64 `json:"seconds_per_step"`
	TokensPerS  float64 `json:"tokens_per_second"`
	TFLOPs      float64 `json:"tflop_per_second"`
	Utilisation float64 `json:"utilisation"` // of the peak; 0 where that is not known
	PeakMiB     float64 `json:"peak_mib"`
	KronShare   float64 `json:"kronecker_share"` // of the time of all operations
}

// BenchmarkStep times optimizer steps on a GPU: forward, backward and AdamW.
// -v adds the time of every kind of operation.
func BenchmarkStep(b *testing.B) {
	const long = 1024
	for _, c := range []struct {
		shape     shape
		n, length int
		method    string
	}{
		{robertaBase, 256, 0, "lsr"}, {robertaBase, 256, 0, "lora"}, {robertaBase, 32, 0, "lsr"},
		{gpt2Size, 8, long, "lsr"}, {gpt2Size, 8, long, "lora"}, {llama1B, 2, long, "lsr"}, {llama1B, 2, long, "lora"},
	} {
		for _, precision := range []string{"bf16", "tf32"} {
			for _, own := range []bool{false, true} {
				s, n, length := c.shape, c.n, c.length
				if *tiny {
					s.hidden, s.inter, s.layers, s.heads, s.kvHeads, s.vocab = 32, 64, 2, 4, max(1, 4*s.kvHeads/s.heads), 100
					n, length = min(n, 4), min(length, 48)
				}
				s.lora = c.method == "lora"
				b.Run(fmt.Sprintf("%s/%d/%s/%s/own=%v", s.name, n, c.method, precision, own), func(b *testing.B) {
					r := benchmarkStep(b, s, lengths(n, length), Options{Precision: precision, NoCuBLASLt: own})
					r.Model, r.Method, r.Precision = fmt.Sprintf("%s/%d", s.name, c.n), c.method, precision
					if err := appendStep(r); err != nil {
						b.Fatal(err)
					}
				})
			}
		}
	}
}

func benchmarkStep(b *testing.B, s shape, lens []int, o Options) stepResult {
	e := realGPU(b, o)
	p := s.program(b)
	batch := s.batch(0, lens...)
	x, err := e.Compile(p, noise{0.035}, batch.Dims())
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close()
	if err := x.SetParams(start(p, 0.035)); err != nil {
		b.Fatal(err)
	}
	t := 0
	step := func() {
		t++
		batch.Step = uint64(t)
		if err := x.Run(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		if _, err := x.Step(graph.AdamW{LR: 1e-4, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01, ClipNorm: 1, T: t}); err != nil {
			b.Fatal(err)
		}
	}
	for range 3 { // code, the capture, the graph
		step()
	}
	began := time.Now()
	steps := 0
	for b.Loop() {
		step()
		steps++
	}
	each := time.Since(began).Seconds() / float64(steps)
	r := stepResult{Device: e.Device().Name, Products: e.Products(), Tokens: len(batch.IDs), Seconds: each, TokensPerS: float64(len(batch.IDs)) / each,
		TFLOPs: flops(p, batch) / each / 1e12, PeakMiB: float64(x.PeakBytes()) / (1 << 20)}
	if most := peak(r.Device, o.Precision); most > 0 {
		r.Utilisation = r.TFLOPs / most
	}
	r.KronShare = kronShare(b, x, step)
	b.ReportMetric(r.TokensPerS, "tokens/s")
	b.ReportMetric(r.TFLOPs, "TFLOP/s")
	b.ReportMetric(100*r.Utilisation, "%peak")
	b.ReportMetric(r.PeakMiB, "MiB")
	b.ReportMetric(100*r.KronShare, "%kron")
	return r
}

// kronShare times the operations of a step one by one.
func kronShare(b *testing.B, x graph.Executable, step func()) float64 {
	pr := x.(graph.Profiler)
	pr.StartProfile()
	step()
	var kron, all float64
	for _, o := range pr.Profile() {
		all += o.Seconds
		if strings.HasPrefix(o.Op, "kron") {
			kron += o.Seconds
		}
		if testing.Verbose() {
			b.Logf("%-18s %5d %10.3f ms", o.Op, o.Calls, 1e3*o.Seconds)
		}
	}
	return kron / all
}

func appendStep(r stepResult) error {
	if *stepsFile == "" {
		return nil
	}
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(*stepsFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
