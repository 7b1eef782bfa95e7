package train

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
	"github.com/lsrsurgeon/lsrsurgeon/graph/reference"
	"github.com/lsrsurgeon/lsrsurgeon/task"
	"github.com/lsrsurgeon/lsrsurgeon/text"
)

// letters encodes each byte as its place in the alphabet.
type letters struct{}

func (letters) EncodeBatch(_ context.Context, in []text.Input, _ text.EncodeOptions) ([]text.Encoding, error) {
	out := make([]text.Encoding, len(in))
	for i, input := range in {
		for k := range len(input.Text) {
			e := &out[i]
			e.IDs = append(e.IDs, int32(input.Text[k]-'a'))
			e.SpecialMask = append(e.SpecialMask, 0)
			e.Offsets = append(e.Offsets, [2]int{k, k + 1})
		}
	}
	return out, nil
}

const (
	vocab  = 26
	hidden = 6
)

// weights are fixed numbers in (-1, 1), different for each tensor.
type weights struct{}

func (weights) ReadRows(w *graph.Weight, lo, hi int, dst []float32) error {
	h := uint32(2166136261)
	for _, c := range w.Name {
		h = (h ^ uint32(c)) * 16777619
	}
	cols := w.StoredCols()
	for i := range dst[:(hi-lo)*cols] {
		x := (h ^ uint32(lo*cols+i)*2654435761) * 2246822519
		x ^= x >> 15
		dst[i] = float32(int32(x*3266489917)) / (1 << 31)
	}
	return nil
}

// net is a model of one token-wise layer with a low-rank adapter and a head:
// logits = mean(tanh(e W + e A B)) C + c.
func net(kind task.Kind, outputs int, dropout float32, loss bool) Net {
	b := graph.NewBuilder()
	x := b.Embed("x", []graph.WeightID{b.Weight("embedding", vocab, hidden, false)}, []graph.Stream{graph.StreamIDs}, []int{0})
	y := b.Linear("y", x, b.Weight("dense", hidden, hidden, false), graph.NoWeight, graph.ActNone, graph.None)
	down := b.Param("A", []int{hidden, 2}, hidden, 2)
	up := b.Param("B", []int{2, hidden}, 2, hidden)
	d := b.MatMul("xA", b.Dropout("drop", x, dropout, graph.None), down, false, false, 1, graph.None)
	y = b.MatMul("xAB", d, up, false, false, 1, y)
	h := b.Activate("h", y, graph.ActTanh)
	n := Net{Weights: weights{}}
	if kind == task.LM {
		n.Logits = graph.None
		b.SetLoss(b.LMLoss(b.Select("rows", h, graph.PickRows), b.Weight("head", hidden, vocab, false), graph.NoWeight))
	} else {
		pooled := b.MeanPool("pooled", h)
		head := b.Param("head", []int{hidden, outputs}, hidden, outputs)
		bias := b.Param("bias", []int{outputs}, 1, outputs)
		n.Logits = b.AddBias(b.MatMul("logits", pooled, head, false, false, 1, graph.None), bias)
		b.Output(n.Logits)
		if loss && kind == task.Classification {
			b.SetLoss(b.CrossEntropy(n.Logits))
		} else if loss {
			b.SetLoss(b.MSE(n.Logits))
		}
	}
	n.Program = b.P
	n.Params = make([]float32, b.P.ParamSize)
	for i := range n.Params {
		n.Params[i] = float32(i%7-3) / 10
	}
	return n
}

// rounded is the reference engine with parameters and moments in float32, as
// engines have them.
type rounded struct{ graph.Engine }

type roundedExe struct {
	graph.Executable
	n int
}

func (e rounded) Compile(p *graph.Program, w graph.WeightSource, d graph.Dims) (graph.Executable, error) {
	x, err := e.Engine.Compile(p, w, d)
	return &roundedExe{x, p.ParamSize}, err
}

func (x *roundedExe) Step(o graph.AdamW) (float64, error) {
	norm, err := x.Executable.Step(o)
	if err != nil {
		return 0, err
	}
	p, m, v := make([]float32, x.n), make([]float32, x.n), make([]float32, x.n)
	for _, f := range []func() error{
		func() error { return x.Params(p) }, func() error { return x.SetParams(p) },
		func() error { return x.Moments(m, v) }, func() error { return x.SetMoments(m, v) },
	} {
		if err := f(); err != nil {
			return 0, err
		}
	}
	return norm, nil
}

// letterKinds is how many letters of the alphabet the examples use.
const letterKinds = 8

// data makes n examples: does the mean letter lie in the upper half.
func data(t testing.TB, kind task.Kind, n int, split task.Split) (task.Spec, *task.Dataset, []task.Example) {
	t.Helper()
	name := map[task.Kind]string{task.Classification: "classification", task.Regression: "regression", task.LM: "lm"}[kind]
	spec, err := task.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	var s strings.Builder
	format := "tsv"
	if kind == task.LM {
		format = "txt"
	} else {
		s.WriteString("text\tlabel\n")
	}
	x := uint32(12345 + 7*n)
	for range n {
		var word []byte
		length := 1 + int(x>>7%6)
		for range length + 1 {
			x = x*1664525 + 1013904223
			word = append(word, 'a'+byte(x>>24)%letterKinds)
		}
		if kind == task.LM {
			fmt.Fprintf(&s, "%s\n", word)
		} else {
			sum := 0
			for _, c := range word {
				sum += int(c - 'a')
			}
			fmt.Fprintf(&s, "%s\t%d\n", word, 2*sum/(letterKinds*len(word)))
		}
	}
	d, err := task.ReadFrom(spec, strings.NewReader(s.String()), "test", format, split, task.ReadOptions{Lines: true})
	if err != nil {
		t.Fatal(err)
	}
	set, err := task.NewDataset(context.Background(), letters{}, d, task.DatasetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d.Spec, set, d.Examples
}

// storiesTokenizer loads the tokenizer of the small Llama in the tree.
func storiesTokenizer(t *testing.T, dir string) task.TokenEncoder {
	t.Helper()
	tok, err := text.Load(dir, text.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tok.Close() })
	return tok
}

// job is a small job of a kind, whose adapter is the raw parameters.
func job(t testing.TB, kind task.Kind, dropout float32) Job {
	t.Helper()
	spec, set, _ := data(t, kind, 60, task.Train)
	_, evalSet, examples := data(t, kind, 40, task.Dev)
	outputs := spec.Outputs()
	return Job{
		Engine: rounded{reference.New()}, Train: net(kind, outputs, dropout, true), Eval: net(kind, outputs, 0, kind == task.LM),
		Spec: spec, Data: set, EvalData: evalSet, EvalExamples: examples, Save: saveRaw,
	}
}

// saveRaw writes what an adapter's files stand for.
func saveRaw(dir string, params []float32) error {
	if err := os.Mkdir(dir, 0o777); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "adapter_config.json"), []byte("{}\n"), 0o666); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "adapter_model.safetensors"))
	if err != nil {
		return err
	}
	defer f.Close()
	return writeFloats(f, params)
}

// rawFloats are the bytes of a raw adapter.
func rawFloats(v []float32) []byte {
	var b bytes.Buffer
	writeFloats(&b, v) // a buffer takes everything
	return b.Bytes()
}

func options(dir string) Options {
	return Options{
		Dir: dir, Epochs: 3, Batch: task.BatchOptions{Size: 8, Accumulate: 2}, LR: 0.05, Warmup: 0.1, WeightDecay: 0.01, Clip: 1, Seed: 3,
	}
}

// runJob trains and fails the test on an error.
func runJob(t testing.TB, j Job, o Options) *Result {
	t.Helper()
	tr, err := New(j, o)
	if err != nil {
		t.Fatal(err)
	}
	res, err := tr.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func adapterBytes(t testing.TB, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "adapter_model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
