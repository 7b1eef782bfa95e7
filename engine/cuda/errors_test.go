package cuda

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// mention fails the test unless err is one line with all of the words.
func mention(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not mention %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q is more than one line", err)
	}
}

func TestMachinesWithoutAUsableGPU(t *testing.T) {
	_, err := New(Options{LibCUDA: "/nonexistent/libcuda.so.1"})
	mention(t, err, "no NVIDIA driver", "/nonexistent/libcuda.so.1")
	if r := Probe(Options{LibCUDA: "/nonexistent/libcuda.so.1"}); r.Problem == "" || !strings.Contains(r.String(), "not usable") {
		t.Errorf("probe without a driver: %+v", r)
	}
	f := openFake(t)
	for name, c := range map[string]struct {
		setting int32
		value   int64
		words   []string
	}{
		"no GPU":     {setDevices, 0, []string{"finds no GPU"}},
		"old driver": {setDriver, 11030, []string{"CUDA 11.3", "update it to 470"}},
		"old GPU":    {setMajor, 7, []string{"compute capability 7.0", "8.0"}},
	} {
		t.Run(name, func(t *testing.T) {
			f.set(c.setting, c.value)
			defer f.reset()
			_, err := New(Options{LibCUDA: f.path, NoCuBLASLt: true})
			mention(t, err, c.words...)
			r := Probe(Options{LibCUDA: f.path, NoCuBLASLt: true})
			for _, w := range c.words {
				if !strings.Contains(r.Problem, w) {
					t.Errorf("the report's problem %q does not mention %q", r.Problem, w)
				}
			}
		})
	}
	_, err = New(Options{LibCUDA: f.path, Device: 3})
	mention(t, err, "no GPU 3", "1 found")
	_, err = New(Options{LibCUDA: f.path, Precision: "f8"})
	mention(t, err, `"f8"`, "f32, tf32 or bf16")
	_, err = New(Options{LibCUDA: f.path, CuBLASLt: "/nonexistent/libcublasLt.so"})
	mention(t, err, "/nonexistent/libcublasLt.so")
}

func TestProbe(t *testing.T) {
	f := openFake(t)
	f.set(setDevices, 2)
	r := Probe(Options{LibCUDA: f.path, CuBLASLt: f.blas, Device: 1})
	if r.Problem != "" || len(r.Devices) != 2 || r.DriverVersion != "12.8" || r.Products != "cuBLASLt" || r.Driver != f.path || r.CuBLASLt != f.blas {
		t.Errorf("%+v", r)
	}
	want := Device{Index: 1, Name: "fibre shim", Major: 9, Memory: 1 << 30, Multiprocessors: 4, SharedMemory: 232448}
	if len(r.Devices) == 2 && r.Devices[1] != want {
		t.Errorf("device %+v, want %+v", r.Devices[1], want)
	}
	for _, s := range []string{"cuda:1", "fibre shim", "compute capability 9.0", "1.00 GiB", "matrix products by cuBLASLt"} {
		if !strings.Contains(r.String(), s) {
			t.Errorf("the report lacks %q:\n%s", s, r)
		}
	}
	e := f.open(t, Options{Device: 1})
	if e.Name() != "cuda:1" || e.Device() != want || e.Products() != "own kernels" {
		t.Errorf("engine %s, %+v, %s", e.Name(), e.Device(), e.Products())
	}
}

// run compiles s for d and runs one batch.
func (s shape) compile(t *testing.T, e *Engine, d graph.Dims) (graph.Executable, *graph.Program, error) {
	p := s.program(t)
	x, err := e.Compile(p, noise{0.3}, d)
	if err == nil {
		t.Cleanup(func() {
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return x, p, err
}

func TestOutOfMemory(t *testing.T) {
	f := openFake(t)
	large := graph.Dims{T: 40000, S: 1000, R: 40000, MaxLen: 40}
	t.Run("limit", func(t *testing.T) {
		e := f.open(t, Options{MemoryLimit: 4 << 20})
		_, _, err := tinyBERT.compile(t, e, large)
		mention(t, err, "40000 tokens in 1000 sequences", "would fit", "4.0 MiB are available on fibre shim")
		if !errors.Is(err, syscall.ENOMEM) {
			t.Errorf("%v is not ENOMEM", err)
		}
	})
	t.Run("not even one sequence", func(t *testing.T) {
		e := f.open(t, Options{MemoryLimit: 1 << 14})
		_, _, err := tinyBERT.compile(t, e, large)
		mention(t, err, "one sequence already takes", "frozen weights", "base dtype of bf16 or int8")
	})
	t.Run("growing", func(t *testing.T) {
		e := f.open(t, Options{})
		x, p, err := tinyBERT.compile(t, e, graph.Dims{T: 16, S: 2, R: 16, MaxLen: 8})
		if err != nil {
			t.Fatal(err)
		}
		if err := x.SetParams(start(p, 0.3)); err != nil {
			t.Fatal(err)
		}
		f.set(setMemory, f.get(getLive)+1<<20)
		var lens []int
		for range 200 {
			lens = append(lens, 30)
		}
		err = x.Run(context.Background(), tinyBERT.batch(0, lens...))
		mention(t, err, "CUDA_ERROR_OUT_OF_MEMORY", "6000 tokens in 200 sequences", "would fit")
		if !errors.Is(err, syscall.ENOMEM) {
			t.Errorf("%v is not ENOMEM", err)
		}
		if err := x.Run(context.Background(), tinyBERT.batch(0, 8, 8)); err != nil {
			t.Errorf("a small batch afterwards: %v", err)
		}
	})
}

func TestWideHeads(t *testing.T) {
	f := openFake(t)
	s := tinyBERT
	s.hidden, s.heads, s.kvHeads = 320, 1, 1
	_, _, err := s.compile(t, f.open(t, Options{}), graph.Dims{T: 16, S: 2, MaxLen: 8})
	mention(t, err, "heads of 320", "at most 256")
}

func TestInfiniteGradients(t *testing.T) {
	f := openFake(t)
	x, p, err := tinyBERT.compile(t, f.open(t, Options{}), graph.Dims{T: 16, S: 2, MaxLen: 8})
	if err != nil {
		t.Fatal(err)
	}
	params, after := start(p, 0.3), make([]float32, p.ParamSize)
	grads := slices.Clone(params)
	grads[5] = float32(math.Inf(1))
	for _, err := range []error{x.SetParams(params), x.SetGrads(grads)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err = x.Step(graph.AdamW{LR: 1, Beta1: 0.9, Beta2: 0.99, Eps: 1e-8, T: 1})
	mention(t, err, "+Inf", "parameters were left as they are")
	if err := x.Params(after); err != nil || !slices.Equal(params, after) {
		t.Errorf("parameters changed (%v)", err)
	}
	if err := x.Grads(after); err != nil || slices.ContainsFunc(after, func(g float32) bool { return g != 0 }) {
		t.Errorf("gradients remain (%v)", err)
	}
}

func TestProfile(t *testing.T) {
	f := openFake(t)
	x, p, err := tinyBERT.compile(t, f.open(t, Options{}), graph.Dims{T: 16, S: 2, MaxLen: 8})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.SetParams(start(p, 0.3)); err != nil {
		t.Fatal(err)
	}
	pr := x.(graph.Profiler)
	pr.StartProfile()
	if err := x.Run(context.Background(), tinyBERT.batch(0, 8, 8)); err != nil {
		t.Fatal(err)
	}
	times := map[string]graph.OpTime{}
	for _, o := range pr.Profile() {
		times[o.Op] = o
	}
	// Two layers with two adapters each: eight sums, in one launch.
	if o := times["kron_sum"]; o.Calls != 8 || o.Seconds != 1e-3 {
		t.Errorf("kron_sum: %+v, want 8 calls and one time of 1 ms", o)
	}
	if times["attention"].Calls != 2 || times["linear"].Calls != 12 {
		t.Errorf("%+v", times)
	}
}

// TestWeightsAreShared compiles twice with memory for one copy of the weights.
func TestWeightsAreShared(t *testing.T) {
	f := openFake(t)
	e := f.open(t, Options{})
	s := tinyBERT
	s.vocab = 5000
	d := graph.Dims{T: 16, S: 2, MaxLen: 8}
	if _, _, err := s.compile(t, e, d); err != nil {
		t.Fatal(err)
	}
	live := f.get(getLive)
	f.set(setMemory, live+400<<10) // the words alone are 625 KiB
	x, _, err := s.compile(t, e, d)
	if err != nil {
		t.Fatal(err)
	}
	if more := f.get(getLive) - live; more <= 0 || x.PeakBytes() <= more {
		t.Errorf("the second executable took %d bytes and holds %d", more, x.PeakBytes())
	}
}
