package merge

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel/kerneltest"
	"github.com/lsrsurgeon/lsrsurgeon/kron"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// reference computes W + Σ weight·scale·A B of element (i, j), i counting
// inputs, in rational arithmetic and rounds it to the dtype by comparing with
// the two neighbours.
func reference(w float64, s []Source, name string, i, j int, d tensor.DType) []byte {
	sum := new(big.Rat).SetFloat64(w)
	rat := func(x float64) *big.Rat { return new(big.Rat).SetFloat64(x) }
	for _, src := range s {
		for _, u := range src.Updates {
			if u.Site.Weight != name {
				continue
			}
			x, err := u.Delta()
			if err != nil {
				panic(err)
			}
			e := new(big.Rat)
			if k := x.Kron; k != nil {
				for t := range k.S {
					e.Add(e, new(big.Rat).Mul(rat(k.F1[(t*k.A1+i/k.A2)*k.R1+j/k.R2]), rat(k.F2[(t*k.A2+i%k.A2)*k.R2+j%k.R2])))
				}
			} else {
				for k := range x.R {
					e.Add(e, new(big.Rat).Mul(rat(x.A[i*x.R+k]), rat(x.B[k*x.Out+j])))
				}
			}
			e.Mul(e, rat(x.Scale)).Mul(e, rat(src.Weight))
			sum.Add(sum, e)
		}
	}
	return roundRat(sum, d)
}

// roundRat rounds an exact number: of the candidates around its float64 the
// nearest one, of two equally near ones that with the even code.
func roundRat(x *big.Rat, d tensor.DType) []byte {
	f, _ := x.Float64()
	var best []byte
	var bestDist *big.Rat
	for _, y := range []float64{f, math.Nextafter(f, math.Inf(-1)), math.Nextafter(f, math.Inf(1))} {
		b, v := make([]byte, d.Bits()/8), make([]float64, 1)
		if err := tensor.EncodeF64(b, []float64{y}, d); err != nil {
			panic(err)
		}
		if err := tensor.DecodeF64(v, b, d); err != nil {
			panic(err)
		}
		dist := new(big.Rat).SetFloat64(v[0])
		dist.Sub(dist, x).Abs(dist)
		if best == nil || dist.Cmp(bestDist) < 0 || dist.Cmp(bestDist) == 0 && b[0]&1 == 0 {
			best, bestDist = b, dist
		}
	}
	return best
}

// checkExact compares every element of the touched tensors with the reference.
func checkExact(t *testing.T, base, merged *formats.Checkpoint, s []Source) {
	t.Helper()
	for _, u := range s[0].Updates {
		name := u.Site.Weight
		x, _ := base.Lookup(name)
		y, ok := merged.Lookup(name)
		if !ok {
			t.Fatalf("%s is missing", name)
		}
		w, got := values(t, base, name), tensorBytes(t, merged, name)
		n := y.DType.Bits() / 8
		for k := range w {
			i, j := k/x.Shape[1], k%x.Shape[1]
			if u.Site.Transposed {
				i, j = j, i
			}
			if want := reference(w[k], s, name, i, j, y.DType); string(got[k*n:][:n]) != string(want) {
				t.Fatalf("%s element %d: %x, want %x", name, k, got[k*n:][:n], want)
			}
		}
	}
}

// TestExact: every dtype of base and output, both orientations, several
// adapters, Kronecker products, on every kernel path.
func TestExact(t *testing.T) {
	dir := makeBase(t)
	base := open(t, dir)
	two := append(sources(1e-3), Source{Name: "two", Weight: -0.3, Updates: []Update{
		update("model.layers.0.q_proj.weight", true, randomDelta(24, 36, 5, 1e-3, 7)),
		update("model.layers.1.q_proj.weight", true, kronDelta(24, 36)),
	}})
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, d := range []tensor.DType{tensor.Invalid, tensor.F32, tensor.BF16, tensor.F16} {
			out := filepath.Join(t.TempDir(), "out")
			mustMerge(t, base, two, Options{DType: d}, out)
			checkExact(t, base, open(t, out), two)
		}
	})
}

// kronDelta is a sum of two Kronecker products cut to (in, out).
func kronDelta(in, out int) *adapter.Delta {
	k := kron.Factor[float64]{Shape: kron.Shape{S: 2, A1: 5, A2: 5, R1: 6, R2: 6, N: in, M: out}}
	d := randomDelta(k.S*k.A1*k.R1, k.S*k.A2*k.R2, 1, 1, 9)
	k.F1, k.F2 = d.A, d.B
	return &adapter.Delta{In: in, Out: out, Scale: 1e-3, Kron: &k}
}

// TestTies: exact ties and sums that cancel are rounded as the definition
// says. Small integers times powers of two make them common.
func TestTies(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "base")
	specs := []spec{{"w.weight", tensor.BF16, []int{64, 48}, 0.02}}
	writeSafetensors(t, mkdir(t, dir, formats.ModelFile), 1, specs)
	base := open(t, dir)
	w := values(t, base, "w.weight")
	// One rank per column sets the update of a row exactly to half a unit in the
	// last place of W, to -W, or close to it.
	d := &adapter.Delta{In: 48, Out: 64, R: 48, Scale: 1, A: make([]float64, 48*48), B: make([]float64, 48*64)}
	for i := range 48 {
		d.A[i*48+i] = 1
		for o := range 64 {
			x := w[o*48+i]
			_, e := math.Frexp(x)
			ulp := math.Ldexp(1, e-8)
			d.B[i*64+o] = [...]float64{ulp / 2, -ulp / 2, -x, 1.5 * ulp, ulp/2 + math.Ldexp(ulp, -44), ulp/2 - math.Ldexp(ulp, -44), ulp / 4, math.Ldexp(1, -135), -x + math.Ldexp(3, -134)}[(i+o)%9]
		}
	}
	s := []Source{{Name: "ties", Weight: 1, Updates: []Update{update("w.weight", true, d)}}}
	out := filepath.Join(t.TempDir(), "out")
	mustMerge(t, base, s, Options{}, out)
	checkExact(t, base, open(t, out), s)
}

// TestTenMillion: a bf16 merge equals the float64 sum rounded once, on 10
// million random elements, and the report gives the known figures: 34.5 % of
// the elements unchanged and an error of 0.31 of the update for weights of 0.02
// and updates of 1e-4.
func TestTenMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("10 million elements take a second: not with -short")
	}
	const rows, cols, rank = 2500, 4000, 8
	dir := filepath.Join(t.TempDir(), "base")
	writeSafetensors(t, mkdir(t, dir, formats.ModelFile), 5, []spec{{"w.weight", tensor.BF16, []int{rows, cols}, 0.02}})
	base := open(t, dir)
	d := randomDelta(cols, rows, rank, 1e-4, 6)
	out := filepath.Join(t.TempDir(), "out")
	rep := mustMerge(t, base, []Source{{Name: "a", Weight: 1, Updates: []Update{update("w.weight", true, d)}}}, Options{}, out)
	old, got := tensorBytes(t, base, "w.weight"), tensorBytes(t, open(t, out), "w.weight")
	differ, unchanged := 0, 0
	bt := make([]float64, rows*rank) // B transposed: (out, r)
	for k := range rank {
		for o := range rows {
			bt[o*rank+k] = d.B[k*rows+o]
		}
	}
	for o := range rows {
		for i := range cols {
			e := o*cols + i
			sum := 0.0
			for k := range rank {
				sum += d.A[i*rank+k] * bt[o*rank+k]
			}
			c := uint16(old[2*e]) | uint16(old[2*e+1])<<8
			want := tensor.F64ToBF16(float64(tensor.BF16ToF32(c)) + d.Scale*sum)
			if g := uint16(got[2*e]) | uint16(got[2*e+1])<<8; g != want {
				differ++
			} else if g == c {
				unchanged++
			}
		}
	}
	if differ != 0 {
		t.Errorf("%d elements differ from the float64 reference", differ)
	}
	r := rep.Tensors[0]
	if r.Unchanged != int64(unchanged) {
		t.Errorf("report says %d unchanged, counted %d", r.Unchanged, unchanged)
	}
	t.Logf("unchanged %.2f %%, error/update %.4f", 100*r.Share, r.RelativeError)
	if math.Abs(r.Share-0.345) > 0.01 || math.Abs(r.RelativeError-0.314) > 0.01 {
		t.Errorf("unchanged %.4f, error %.4f: want about 0.345 and 0.314", r.Share, r.RelativeError)
	}
}

// TestCarriedAlong: untouched bytes, order, metadata and the other files stay;
// stale weights do not come along.
func TestCarriedAlong(t *testing.T) {
	dir := makeBase(t)
	before := tree(t, dir)
	base := open(t, dir)
	out := filepath.Join(t.TempDir(), "out")
	rep := mustMerge(t, base, sources(1e-3), Options{}, out)
	sameTree(t, "input", tree(t, dir), before)
	after := tree(t, out)
	for _, same := range []string{"config.json", "tokenizer.json", filepath.Join("1_Pooling", "config.json")} {
		if after[same] != before[same] {
			t.Errorf("%s differs", same)
		}
	}
	if len(after) != 6 {
		t.Errorf("output has %v", after)
	}
	if !slices.Contains(rep.LeftOut, "pytorch_model.bin") {
		t.Errorf("left out: %v", rep.LeftOut)
	}
	merged := open(t, out)
	if got, want := fmt.Sprint(names(merged)), fmt.Sprint(names(base)); got != want {
		t.Errorf("tensors %v, want %v", got, want)
	}
	for _, x := range base.Tensors() {
		touched := slices.ContainsFunc(sources(1)[0].Updates, func(u Update) bool { return u.Site.Weight == x.Name })
		if same := string(tensorBytes(t, base, x.Name)) == string(tensorBytes(t, merged, x.Name)); same == touched {
			t.Errorf("%s: touched %v, same %v", x.Name, touched, same)
		}
	}
	for i, f := range merged.Files() {
		if fmt.Sprint(f.Metadata) != fmt.Sprint(base.Files()[i].Metadata) {
			t.Errorf("metadata %v", f.Metadata)
		}
	}
	for _, f := range merged.Check() {
		t.Errorf("index: %v", f)
	}
	b, err := os.ReadFile(filepath.Join(out, formats.IndexFile))
	if err != nil || !strings.Contains(string(b), "12345678901234567") {
		t.Errorf("index metadata are lost: %s %v", b, err)
	}
}

func names(c *formats.Checkpoint) (n []string) {
	for _, x := range c.Tensors() {
		n = append(n, x.Name)
	}
	return n
}

// TestWorkers: the bytes do not depend on the number of workers, for any
// rounding, nor does the report.
func TestWorkers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "base")
	writeSafetensors(t, mkdir(t, dir, formats.ModelFile), 1, []spec{
		{"a.weight", tensor.BF16, []int{1100, 1000}, 0.02}, {"b.weight", tensor.F32, []int{1060, 1000}, 0.02}, {"c", tensor.F32, []int{1060000}, 1},
	})
	base := open(t, dir)
	s := []Source{{Name: "x", Weight: 1, Updates: []Update{
		update("a.weight", true, randomDelta(1000, 1100, 4, 1e-3, 1)), update("b.weight", false, randomDelta(1060, 1000, 4, 1e-3, 2)),
	}}}
	for _, o := range []Options{{Reversible: true}, {DType: tensor.F16}, {Rounding: Stochastic, Seed: 7}, {Rounding: ErrorFeedback, DType: tensor.BF16}} {
		var want map[string]string
		var rep string
		for _, n := range []int{1, 3} {
			o.Workers = n
			out := filepath.Join(t.TempDir(), "out")
			r := mustMerge(t, base, s, o, out)
			if want == nil {
				want, rep = tree(t, out), fmt.Sprintf("%+v", r)
				continue
			}
			sameTree(t, fmt.Sprintf("%+v", o), tree(t, out), want)
			if got := fmt.Sprintf("%+v", r); got != rep {
				t.Errorf("report differs: %s, %s", got, rep)
			}
		}
	}
}

// TestPaths: the bytes are the same on every kernel path, for any rounding, any dtype
// and any number of workers.
func TestPaths(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "base")
	var specs []spec
	s := []Source{{Name: "x", Weight: 0.7}, {Name: "y", Weight: 1}}
	for i, d := range []tensor.DType{tensor.BF16, tensor.F16, tensor.F32} {
		name := d.String() + ".weight"
		specs = append(specs, spec{name, d, []int{260, 333}, 0.02})
		s[0].Updates = append(s[0].Updates, update(name, true, randomDelta(333, 260, 7, 1e-4, uint64(i))))
		s[1].Updates = append(s[1].Updates, update(name, true, randomDelta(333, 260, 9, 1e-5, uint64(10+i))))
	}
	specs = append(specs, spec{"cancelling.weight", tensor.BF16, []int{60, 90}, 0.02})
	s[1].Updates = append(s[1].Updates, update("cancelling.weight", true, cancelling(90, 60)))
	writeSafetensors(t, mkdir(t, dir, formats.ModelFile), 1, specs)
	base := open(t, dir)
	want := map[string]map[string]string{}
	kerneltest.ForEach(t, func(t *testing.T) {
		for _, mode := range []Rounding{Nearest, Stochastic, ErrorFeedback} {
			for _, d := range []tensor.DType{tensor.Invalid, tensor.BF16} {
				for _, n := range []int{1, 3} {
					what := fmt.Sprintf("%s to %v", mode, d)
					out := filepath.Join(t.TempDir(), "out")
					mustMerge(t, base, s, Options{Rounding: mode, DType: d, Seed: 5, Workers: n}, out)
					if want[what] == nil {
						want[what] = tree(t, out)
					}
					sameTree(t, fmt.Sprintf("%s, %d workers", what, n), tree(t, out), want[what])
				}
			}
		}
	})
	if len(want) != 6 {
		t.Errorf("%d merges", len(want))
	}
}

// cancelling is an update whose large products cancel, so that float64 sums of it differ
// by a thousandth from one path to another.
func cancelling(in, out int) *adapter.Delta {
	d := randomDelta(in, out, 4, 1, 9)
	d.Scale = 1
	for i := range in {
		for k := 0; k < 4; k += 2 {
			d.A[i*4+k] *= 1e9
			d.A[i*4+k+1] = d.A[i*4+k]
		}
	}
	for j := range out {
		for k := 0; k < 4; k += 2 {
			d.B[(k+1)*out+j] = -d.B[k*out+j] * (1 + 1e-13)
		}
	}
	return d
}

func TestReshard(t *testing.T) {
	base := open(t, makeBase(t))
	for _, size := range []int64{1, 3000, 1 << 40} {
		out := filepath.Join(t.TempDir(), "out")
		mustMerge(t, base, sources(1e-3), Options{MaxShardSize: size}, out)
		merged := open(t, out)
		if size == 1<<40 && (len(merged.Files()) != 1 || filepath.Base(merged.Files()[0].Path) != formats.ModelFile || merged.Index() != nil) {
			t.Errorf("files %v", merged.Files())
		}
		if size == 1 && len(merged.Files()) < len(base.Tensors())-1 {
			t.Errorf("%d files", len(merged.Files()))
		}
		for _, f := range merged.Check() {
			t.Errorf("index: %v", f)
		}
		checkExact(t, base, merged, sources(1e-3))
		for _, x := range base.Tensors() {
			if y, ok := merged.Lookup(x.Name); !ok || y.DType != x.DType {
				t.Errorf("%s: %v", x.Name, y)
			}
		}
	}
}

// TestSingleFile merges one file into one file.
func TestSingleFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "base")
	path := mkdir(t, dir, "weights.safetensors")
	writeSafetensors(t, path, 1, baseSpecs[0])
	put(t, filepath.Join(dir, "config.json"), "{}")
	put(t, filepath.Join(dir, "notes.txt"), "not part of the model")
	base := open(t, path)
	s := []Source{{Name: "x", Weight: 1, Updates: sources(1e-3)[0].Updates[:2]}}
	out := filepath.Join(t.TempDir(), "merged.safetensors")
	mustMerge(t, base, s, Options{}, out)
	checkExact(t, base, open(t, out), s)
	if _, err := mustPlan(t, base, s, Options{}).Run(context.Background(), out, nil); err == nil {
		t.Error("an existing file was replaced")
	}
	if _, err := mustPlan(t, base, s, Options{Replace: true}).Run(context.Background(), path, nil); err == nil {
		t.Error("the base was replaced")
	}
	outDir := filepath.Join(t.TempDir(), "out")
	mustMerge(t, base, s, Options{}, outDir)
	if got := tree(t, outDir); len(got) != 2 || got["config.json"] == "" {
		t.Errorf("output %v", got)
	}
}

func mustPlan(t testing.TB, base *formats.Checkpoint, s []Source, o Options) *Plan {
	t.Helper()
	p, err := NewPlan(base, s, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestHead: whole tensors replace those of the base or are added; config.json
// gets the keys that go with them.
func TestHead(t *testing.T) {
	dir := makeBase(t)
	base := open(t, dir)
	head := []adapter.Tensor{
		{Name: "classifier.weight", Shape: []int{2, 24}, Data: slices.Repeat([]float32{0.1}, 48)},
		{Name: "model.layers.0.norm.weight", Shape: []int{24}, Data: slices.Repeat([]float32{0.3}, 24)},
	}
	s := sources(1e-3)
	s[0].Head = head
	out := filepath.Join(t.TempDir(), "out")
	rep := mustMerge(t, base, s, Options{Reversible: true, Config: []ConfigValue{{"architectures", []string{"LlamaForSequenceClassification"}}, {"model_type", "x"}}}, out)
	merged := open(t, out)
	checkExact(t, base, merged, s)
	if fmt.Sprint(rep.Added) != "[classifier.weight]" {
		t.Errorf("added %v", rep.Added)
	}
	for _, h := range head {
		x, _ := merged.Lookup(h.Name)
		want := float64(tensor.BF16ToF32(tensor.F32ToBF16(h.Data[0])))
		if v := values(t, merged, h.Name); x.DType != tensor.BF16 || v[0] != want || v[len(v)-1] != want {
			t.Errorf("%s: %v %v", h.Name, x.DType, v[0])
		}
	}
	got, err := os.ReadFile(filepath.Join(out, "config.json"))
	want := "{\n  \"model_type\": \"x\",\n  \"tie_word_embeddings\": true,\n  \"torch_dtype\": \"bfloat16\",\n  \"architectures\": [\"LlamaForSequenceClassification\"]\n}\n"
	if err != nil || strings.ReplaceAll(string(got), "\"architectures\":[", "\"architectures\": [") != want {
		t.Errorf("config.json: %s %v", got, err)
	}
	back := filepath.Join(t.TempDir(), "back")
	if err := Unmerge(context.Background(), merged, filepath.Join(out, UndoFile), back, UnmergeOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	sameTree(t, "unmerged", tree(t, back), withoutLeftOut(tree(t, dir)))
}

func withoutLeftOut(m map[string]string) map[string]string {
	delete(m, "pytorch_model.bin")
	delete(m, filepath.Join(".cache", "x"))
	return m
}

// TestTied: an update of the output layer that the base has only as its word
// embeddings unties them; so does one of either member where both exist.
func TestTied(t *testing.T) {
	dir := makeBase(t)
	base := open(t, dir)
	const word, head = "model.embed_tokens.weight", "lm_head.weight"
	s := []Source{{Name: "x", Weight: 1, Updates: []Update{update(head, true, randomDelta(24, 50, 2, 1e-2, 1))}}}
	if _, err := NewPlan(base, s, Options{}); !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), head) {
		t.Errorf("without ties: %v", err)
	}
	out := filepath.Join(t.TempDir(), "out")
	rep := mustMerge(t, base, s, Options{Tied: [][]string{{word, head}}}, out)
	merged := open(t, out)
	if string(tensorBytes(t, merged, word)) != string(tensorBytes(t, base, word)) {
		t.Error("the word embeddings changed")
	}
	w, got := values(t, base, word), tensorBytes(t, merged, head)
	for k := range w {
		if want := reference(w[k], s, head, k%24, k/24, tensor.BF16); string(got[2*k:][:2]) != string(want) {
			t.Fatalf("element %d: %x, want %x", k, got[2*k:][:2], want)
		}
	}
	b, err := os.ReadFile(filepath.Join(out, "config.json"))
	if err != nil || !strings.Contains(string(b), "\"tie_word_embeddings\": false") && !strings.Contains(string(b), "\"tie_word_embeddings\":false") {
		t.Errorf("config.json %s %v", b, err)
	}
	if fmt.Sprint(rep.Untied) != fmt.Sprint([]string{word, head}) {
		t.Errorf("untied %v", rep.Untied)
	}
	// The other way: the embeddings change, the head keeps the old ones.
	s[0].Updates[0] = update(word, true, randomDelta(24, 50, 2, 1e-2, 1))
	out = filepath.Join(t.TempDir(), "out")
	mustMerge(t, base, s, Options{Tied: [][]string{{word, head}}}, out)
	merged = open(t, out)
	if string(tensorBytes(t, merged, head)) != string(tensorBytes(t, base, word)) {
		t.Error("the head is not the old embeddings")
	}
	if string(tensorBytes(t, merged, word)) == string(tensorBytes(t, base, word)) {
		t.Error("the embeddings did not change")
	}
}

func TestReversible(t *testing.T) {
	dir := makeBase(t)
	want := withoutLeftOut(tree(t, dir))
	base := open(t, dir)
	for _, o := range []Options{{}, {MaxShardSize: 2500}, {Rounding: Stochastic}} {
		o.Reversible = true
		out := filepath.Join(t.TempDir(), "out")
		mustMerge(t, base, sources(1e-3), o, out)
		merged := open(t, out)
		undo := filepath.Join(out, UndoFile)
		for _, n := range []int{1, 3} {
			back := filepath.Join(t.TempDir(), "back")
			var last, total int64
			if err := Unmerge(context.Background(), merged, undo, back, UnmergeOptions{Workers: n}, func(d, all int64) { last, total = d, all }); err != nil {
				t.Fatal(err)
			}
			sameTree(t, "unmerged", tree(t, back), want)
			if last == 0 || last > total {
				t.Errorf("progress %d of %d", last, total)
			}
		}
		// A changed element is noticed.
		x, _ := merged.Lookup("model.layers.1.q_proj.weight")
		f, err := os.OpenFile(merged.Files()[x.File].Path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{1, 2, 3}, x.Offset+8); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		back := filepath.Join(t.TempDir(), "back")
		if err := Unmerge(context.Background(), merged, undo, back, UnmergeOptions{}, nil); !errors.Is(err, ErrMismatch) {
			t.Errorf("a changed tensor: %v", err)
		}
		if _, err := os.Lstat(back); err == nil {
			t.Error("output after a failure")
		}
	}
}

// TestUndoDamaged flips and cuts bytes of an undo file: an error or the right
// result, never another one.
func TestUndoDamaged(t *testing.T) {
	dir := makeBase(t)
	want := withoutLeftOut(tree(t, dir))
	out := filepath.Join(t.TempDir(), "out")
	mustMerge(t, open(t, dir), sources(1e-3), Options{Reversible: true}, out)
	merged := open(t, out)
	good, err := os.ReadFile(filepath.Join(out, UndoFile))
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.undo")
	refused := 0
	for i := range 120 {
		b := slices.Clone(good)
		if i%3 == 0 {
			b = b[:len(b)*i/120]
		} else {
			b[len(b)*i/120] ^= 1 << (i % 8)
		}
		put(t, bad, string(b))
		back := filepath.Join(t.TempDir(), "back")
		if err := Unmerge(context.Background(), merged, bad, back, UnmergeOptions{}, nil); err != nil {
			refused++
			continue
		}
		sameTree(t, fmt.Sprintf("damage %d", i), tree(t, back), want)
	}
	if refused < 100 {
		t.Errorf("only %d of 120 refused", refused)
	}
}
