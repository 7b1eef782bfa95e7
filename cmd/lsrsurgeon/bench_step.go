package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/bench/peers"
	"github.com/lsrsurgeon/lsrsurgeon/engine/cpu"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/internal/synthetic"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// stepOptions describe a training step on a synthetic model.
type stepOptions struct {
	arch, method, rank, precision, baseDType string
	terms                                    int
	batch, batches, seq, threads             int
	checkpoint, from                         int
	dropout                                  float64
	layers                                   string
	worker                                   bool
	profile                                  bool
}

func newBenchStep(a *app) *cobra.Command {
	o := &stepOptions{}
	c := &cobra.Command{
		Use:   "step",
		Short: "Time training steps on a model of a standard shape with random weights",
		Example: `  lsrsurgeon bench step --arch roberta --method lsr
  lsrsurgeon bench step --arch gpt2 --batch 8 --precision bf16 --profile`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runBenchStep(cmd.Context(), a, o) },
	}
	o.addModel(c)
	enumFlag(c, &o.method, "method", "adapter on query and value; none for the step without them, frozen for the forward pass alone", "lora", "lsr", "none", "frozen")
	f := c.Flags()
	f.StringVar(&o.rank, "rank", "", "rank (lora 8, lsr 2x2)")
	f.IntVar(&o.terms, "terms", 0, "terms (lsr 16)")
	f.BoolVar(&o.worker, "worker", false, "run one round for every line on stdin, as bench/peers/compare asks")
	f.BoolVar(&o.profile, "profile", false, "print the time of each operation")
	return c
}

// addModel adds the flags that say what a step is, but for its adapter.
func (o *stepOptions) addModel(c *cobra.Command) {
	enumFlag(c, &o.arch, "arch", "model shape", synthetic.Architectures()...)
	enumFlag(c, &o.precision, "precision", "of products with frozen weights", "f32", "bf16")
	enumFlag(c, &o.baseDType, "base-dtype", "how frozen matrices are held", "auto", "f32", "bf16", "int8")
	f := c.Flags()
	f.IntVar(&o.batch, "batch", 32, "sequences of a batch")
	f.IntVar(&o.batches, "batches", 1, "batches of a round")
	f.IntVar(&o.seq, "seq", 256, "sequence length of language models")
	f.IntVar(&o.threads, "threads", 0, "threads (default: all)")
	f.Float64Var(&o.dropout, "dropout", 0.1, "dropout everywhere the model has it, and on the adapters' input")
	f.StringVar(&o.layers, "layers", "", "adapt only these layers")
	f.IntVar(&o.checkpoint, "checkpoint-layers", 0, "compute the activations of groups of so many layers again in the backward pass")
}

// stepBench is a compiled synthetic training step.
type stepBench struct {
	exe     graph.Executable
	batches []*graph.Batch
	tokens  int
	params  int
	loss    graph.Value
	train   bool
	steps   int
}

// round runs all batches once and returns real tokens per second.
func (s *stepBench) round(ctx context.Context) (float64, error) {
	start := time.Now()
	for _, b := range s.batches {
		s.steps++
		b.Step = uint64(s.steps)
		if err := s.exe.Run(ctx, b); err != nil {
			return 0, err
		}
		if s.train {
			if _, err := s.exe.Step(graph.AdamW{LR: 1e-4, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01, ClipNorm: 1, T: s.steps}); err != nil {
				return 0, err
			}
		}
	}
	return float64(s.tokens) / time.Since(start).Seconds(), nil
}

// stepModel is the synthetic model that steps run on. Steps of one model share
// its packed weights.
type stepModel struct {
	*model.Model
	dir    string
	ck     *formats.Checkpoint
	engine graph.Engine
	lm     bool // its task is the next token
}

func openStepModel(o *stepOptions) (*stepModel, error) {
	dir, err := os.MkdirTemp("", "lsrsurgeon-bench-")
	if err != nil {
		return nil, err
	}
	s := &stepModel{dir: dir, lm: o.arch == "gpt2" || o.arch == "llama-1b"}
	if err := s.open(o); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// close removes the checkpoint. Steps stay usable: their weights come from
// synthetic.Weights.
func (s *stepModel) close() {
	if s.ck != nil {
		s.ck.Close()
	}
	os.RemoveAll(s.dir)
}

func (s *stepModel) open(o *stepOptions) (err error) {
	if err := synthetic.Write(s.dir, o.arch); err != nil {
		return err
	}
	base := o.baseDType
	if base == "auto" {
		base = ""
	}
	if s.engine, err = cpu.New(cpu.Options{Threads: threads(o.threads), Precision: o.precision, BaseDType: base}); err != nil {
		return usagef("%v", err)
	}
	if s.ck, err = formats.Open(s.dir); err != nil {
		return err
	}
	s.Model, err = model.Open(s.ck)
	return err
}

// newStepBench compiles one step on a model of its own.
func newStepBench(o *stepOptions) (*stepBench, error) {
	m, err := openStepModel(o)
	if err != nil {
		return nil, err
	}
	defer m.close()
	return m.step(o)
}

// step compiles one step.
func (m *stepModel) step(o *stepOptions) (_ *stepBench, err error) {
	s := &stepBench{train: o.method != "frozen"}
	b := model.BuildOptions{Task: model.TaskClassification, NumLabels: 2, Train: s.train, HiddenDropout: &o.dropout, AttentionDropout: &o.dropout, From: o.from, Projections: o.from > 0}
	if m.lm {
		b.Task, b.Loss = model.TaskLM, true
	}
	if s.train {
		if b.Adapter, err = benchAdapter(m.Model, o, m.lm); err != nil {
			return nil, err
		}
	}
	built, err := m.Build(b)
	if err != nil {
		return nil, err
	}
	if s.train {
		if err := graph.DifferentiateWith(built.Program, graph.DiffOptions{CheckpointLayers: o.checkpoint}); err != nil {
			return nil, err
		}
	}
	if err := s.makeBatches(o, m.Config().VocabSize, m.lm); err != nil {
		return nil, err
	}
	if s.exe, err = m.engine.Compile(built.Program, synthetic.Weights{}, s.dims()); err != nil {
		return nil, err
	}
	s.loss = built.Program.Loss
	s.params = built.Program.ParamSize
	return s, s.exe.SetParams(built.Params)
}

// dims are sizes that hold all batches.
func (s *stepBench) dims() (d graph.Dims) {
	for _, x := range s.batches {
		y := x.Dims()
		d = graph.Dims{T: max(d.T, y.T), S: max(d.S, y.S), R: max(d.R, y.R), MaxLen: max(d.MaxLen, y.MaxLen)}
	}
	return d
}

// benchAdapter is the adapter of a step. That of method none is one of rank 1
// in the lowest adapted layer: gradients flow through every frozen layer as
// they do for the others.
func benchAdapter(m *model.Model, o *stepOptions, lm bool) (*adapter.Adapter, error) {
	method, rank, drop, layers := o.method, o.rank, o.dropout, o.layers
	if method == "none" {
		method, rank, drop = adapter.MethodLoRA, "1", 0
		first, _, _ := strings.Cut(layers, ",")
		first, _, _ = strings.Cut(first, "-")
		layers = cmp.Or(first, "0")
	}
	set, err := adapter.Defaults(method, adapter.InitZero)
	if err != nil {
		return nil, err
	}
	if rank != "" {
		if set.Rank, err = adapter.ParseRank(rank); err != nil {
			return nil, usagef("--rank: %v", err)
		}
	}
	if o.terms > 0 {
		set.Terms = o.terms
	}
	set.Dropout = drop
	c := adapter.Config{Settings: set, Targets: defaultTargets(m.Sites())}
	if layers != "" {
		if c.Targets.Layers, err = adapter.ParseLayers(layers); err != nil {
			return nil, usagef("--layers: %v", err)
		}
	}
	if !lm {
		c.TaskType, c.ModulesToSave = "SEQ_CLS", []string{"classifier"}
	}
	return adapter.New(m.Sites(), c, nil)
}

// makeBatches draws token ids; encoders get MRPC-like lengths, language models
// full sequences with every next token as a label.
func (s *stepBench) makeBatches(o *stepOptions, vocab int, lm bool) error {
	lengths, err := synthetic.Lengths(peers.Lengths, o.batch*o.batches)
	if err != nil && !lm {
		return usagef("--batch, --batches: %v", err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range o.batches {
		b := &graph.Batch{CuSeqlens: []int32{0}, Train: s.train, Seed: 1}
		for j := range o.batch {
			n := o.seq
			if !lm {
				n = lengths[i*o.batch+j]
				b.Labels = append(b.Labels, int32(r.IntN(2)))
			}
			for t := range n {
				b.IDs = append(b.IDs, int32(5+r.IntN(vocab-5)))
				b.Positions = append(b.Positions, int32(t))
				if lm && t > 0 {
					b.Rows = append(b.Rows, int32(len(b.IDs)-2))
					b.Labels = append(b.Labels, b.IDs[len(b.IDs)-1])
				}
			}
			b.CuSeqlens = append(b.CuSeqlens, int32(len(b.IDs)))
		}
		b.LossScale = 1 / float32(len(b.Labels))
		s.tokens += len(b.IDs)
		s.batches = append(s.batches, b)
	}
	return nil
}

func runBenchStep(ctx context.Context, a *app, o *stepOptions) error {
	s, err := newStepBench(o)
	if err != nil {
		return err
	}
	defer s.exe.Close()
	if _, err := s.round(ctx); err != nil { // the first touches all memory
		return err
	}
	if o.worker {
		return serve(a, map[string]any{"ready": true, "tokens": s.tokens, "peak_bytes": s.exe.PeakBytes()}, func() (float64, error) { return s.round(ctx) })
	}
	p, _ := s.exe.(graph.Profiler)
	if o.profile && p != nil {
		p.StartProfile()
	}
	var rates []float64
	for range 3 {
		v, err := s.round(ctx)
		if err != nil {
			return err
		}
		rates = append(rates, v)
	}
	best := max(rates[0], rates[1], rates[2])
	var prof []graph.OpTime
	if o.profile && p != nil {
		prof = p.Profile()
	}
	if a.json {
		return a.printJSON(map[string]any{"schema": schemaVersion, "arch": o.arch, "method": o.method, "precision": o.precision, "tokens": s.tokens, "tokens_per_second": best, "seconds": float64(s.tokens) / best, "peak_bytes": s.exe.PeakBytes(), "profile": profileRows(prof)})
	}
	fmt.Fprintf(a.out, "%s %s %s: %.0f tokens/s, %.2f s a round of %d tokens, %s planned\n", o.arch, o.method, o.precision, best, float64(s.tokens)/best, s.tokens, bytesText(s.exe.PeakBytes()))
	if prof != nil {
		printProfile(a, prof)
	}
	return nil
}

// serve answers every line on stdin with one round of f.
func serve(a *app, ready map[string]any, f func() (float64, error)) error {
	e := json.NewEncoder(a.out)
	if err := e.Encode(ready); err != nil {
		return err
	}
	for in := bufio.NewScanner(a.in); in.Scan(); {
		v, err := f()
		if err != nil {
			return err
		}
		if err := e.Encode(map[string]float64{"value": v}); err != nil {
			return err
		}
	}
	return e.Encode(map[string]float64{"peak_rss_mb": peakRSS()})
}

// profileRow is one kind of operation in JSON.
type profileRow struct {
	Op      string  `json:"op"`
	Calls   int     `json:"calls"`
	Seconds float64 `json:"seconds"`
	Share   float64 `json:"share"`
	GFLOPs  float64 `json:"gflop_per_second"`
}

func profileRows(prof []graph.OpTime) []profileRow {
	total := 0.0
	for _, p := range prof {
		total += p.Seconds
	}
	rows := []profileRow{}
	for _, p := range prof {
		rows = append(rows, profileRow{p.Op, p.Calls, p.Seconds, p.Seconds / total, p.FLOP / p.Seconds / 1e9})
	}
	return rows
}

func printProfile(a *app, prof []graph.OpTime) {
	t := newTable("operation", ">calls", ">seconds", ">share", ">GFLOP/s")
	for _, r := range profileRows(prof) {
		t.add(r.Op, fmt.Sprint(r.Calls), fmt.Sprintf("%.3f", r.Seconds), fmt.Sprintf("%.1f %%", 100*r.Share), fmt.Sprintf("%.1f", r.GFLOPs))
	}
	t.write(a.out, a.outTTY)
}
