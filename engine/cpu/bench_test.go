package cpu

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

// mrpcLengths are three batches of 32 sentence pairs as long as MRPC's with
// RoBERTa's tokenizer: numpy's default_rng(1234).normal(53, 15), rounded and
// clipped to 20..128.
var mrpcLengths = [3][]int{
	{29, 54, 64, 55, 66, 97, 31, 67, 28, 58, 45, 73, 40, 61, 34, 21, 60, 79, 61, 38, 57, 65, 71, 36, 63, 58, 53, 53, 43, 44, 73, 57},
	{46, 20, 40, 45, 34, 33, 65, 49, 28, 33, 49, 70, 30, 77, 46, 27, 61, 75, 50, 63, 48, 53, 78, 66, 35, 95, 38, 66, 60, 52, 56, 51},
	{66, 42, 35, 60, 79, 51, 79, 52, 76, 67, 61, 67, 40, 54, 29, 26, 67, 51, 68, 55, 41, 96, 74, 56, 53, 78, 48, 76, 63, 33, 64, 70},
}

// BenchmarkStep is one optimizer step: forward, backward and AdamW on a batch
// of 32. tokens/s counts real tokens, GFLOP/s the matrix products that the
// program runs.
func BenchmarkStep(b *testing.B) {
	for _, m := range []struct {
		name string
		enc  encoder
	}{{"roberta-base", robertaBase}, {"minilm", miniLM}} {
		for _, method := range []string{"", "lora", "lsr"} {
			for _, drop := range []float32{0, 0.1} {
				enc := m.enc
				enc.adapter, enc.drop = method, drop
				if method == "" && drop > 0 {
					continue
				}
				name := fmt.Sprintf("%s/%s", m.name, enc)
				if method == "" {
					name = m.name + "/forward"
				}
				b.Run(name, func(b *testing.B) { benchmarkStep(b, enc, Options{}) })
			}
		}
	}
	enc := robertaBase
	enc.adapter = "lora"
	b.Run("roberta-base/lora/bf16", func(b *testing.B) { benchmarkStep(b, enc, Options{Precision: "bf16"}) })
	b.Run("roberta-base/lora/int8", func(b *testing.B) { benchmarkStep(b, enc, Options{BaseDType: "int8"}) })
}

func benchmarkStep(b *testing.B, enc encoder, o Options) {
	var batches []*graph.Batch
	d := graph.Dims{}
	for _, lens := range mrpcLengths {
		bt := newBatch(enc.vocab, lens...)
		batches = append(batches, bt)
		d = larger(d, bt.Dims())
	}
	x := compile(b, o, enc.program(b), noise{}, d).(*executable)
	run := func(i int) {
		bt := batches[i%len(batches)]
		bt.Step = uint64(i)
		if err := x.Run(b.Context(), bt); err != nil {
			b.Fatal(err)
		}
		if enc.adapter == "" {
			return
		}
		if _, err := x.Step(graph.AdamW{LR: 1e-4, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01, T: i + 1}); err != nil {
			b.Fatal(err)
		}
	}
	run(0)
	x.StartProfile()
	tokens, i := 0, 0
	for b.Loop() {
		run(i)
		tokens += len(batches[i%len(batches)].IDs)
		i++
	}
	var flop float64
	for _, t := range x.Profile() {
		flop += t.FLOP
	}
	b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "tokens/s")
	b.ReportMetric(flop/b.Elapsed().Seconds()/1e9, "GFLOP/s")
	b.ReportMetric(flop/float64(i)/1e9, "GFLOP/op")
	b.ReportMetric(float64(x.PeakBytes())/(1<<20), "MiB")
	b.Logf("kernel %s, %d processors\n%s", kernel.Selected(), runtime.GOMAXPROCS(0), table(x.Profile(), i))
}

// table shows a profile per step.
func table(times []graph.OpTime, steps int) string {
	var s strings.Builder
	w := tabwriter.NewWriter(&s, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "op\tcalls\tms\tGFLOP/s\t")
	for _, t := range times {
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t\n", t.Op, t.Calls/steps, 1e3*t.Seconds/float64(steps), t.FLOP/t.Seconds/1e9)
	}
	_ = w.Flush()
	return s.String()
}
