package main

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/engine/cpu"
	"github.com/lsrsurgeon/lsrsurgeon/engine/cuda"
	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// engineFlags choose where and how programs run.
type engineFlags struct {
	device, precision, baseDType, memory string
	threads                              int
	profile                              bool
}

func (f *engineFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.device, "device", "auto", "device: auto, cpu, cuda or cuda:N")
	enumFlag(c, &f.precision, "precision", "of products with frozen weights", "f32", "bf16")
	enumFlag(c, &f.baseDType, "base-dtype", "how frozen weights are held in memory", "auto", "f32", "bf16", "int8")
	fl.IntVar(&f.threads, "threads", 0, "threads (default: one per processor); results do not depend on it")
	fl.StringVar(&f.memory, "memory", "", "refuse to use more than this: 8GiB")
	fl.BoolVar(&f.profile, "profile", false, "print the time per operation")
}

// check refuses values that mean nothing.
func (f *engineFlags) check() error {
	if f.threads < 0 {
		return usagef("--threads %d: want at least 1, or 0 for one per processor", f.threads)
	}
	if _, err := parseBytes(f.memory); err != nil {
		return err
	}
	kind, number, numbered := strings.Cut(f.device, ":")
	switch n, err := strconv.Atoi(number); {
	case numbered && kind == "cuda" && (err != nil || n < 0):
		return usagef("--device %s: write cuda or cuda:N", f.device)
	case numbered && kind != "cuda", kind != "auto" && kind != "cpu" && kind != "cuda":
		return &usageError{msg: "--device " + f.device + ": no such device", hint: "devices are auto, cpu, cuda and cuda:N; see lsrsurgeon doctor"}
	}
	return nil
}

// open opens the engine that the flags ask for.
func (f *engineFlags) open(a *app) (graph.Engine, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	limit, err := parseBytes(f.memory)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(f.device, "cuda") {
		return f.openCUDA(a, limit)
	}
	base := f.baseDType
	if base == "auto" {
		base = ""
	}
	e, err := cpu.New(cpu.Options{Threads: threads(f.threads), Precision: f.precision, BaseDType: base, MemoryLimit: limit})
	if err != nil {
		return nil, &usageError{msg: err.Error()}
	}
	return e, nil
}

// openCUDA opens a GPU. --device auto does not choose it: the engine has been
// proven on a simulated device only, so a user has to ask for it.
func (f *engineFlags) openCUDA(a *app, limit int64) (graph.Engine, error) {
	o := a.cudaOptions()
	o.Precision, o.MemoryLimit = f.precision, limit
	if _, n, ok := strings.Cut(f.device, ":"); ok {
		i, err := strconv.Atoi(n)
		if err != nil {
			return nil, usagef("--device %s: %v", f.device, err)
		}
		o.Device = i
	}
	if f.baseDType != "auto" {
		o.BaseDType = f.baseDType
	}
	if err := o.Check(); err != nil {
		return nil, &usageError{msg: err.Error()}
	}
	e, err := cuda.New(o)
	if err != nil {
		return nil, withHint(&resourceError{err}, "see lsrsurgeon doctor, or use --device cpu")
	}
	if !e.HasCuBLASLt() {
		a.warn("cuBLASLt was not found: the slower built-in kernels multiply matrices; LSRSURGEON_CUBLASLT names the library")
	}
	return e, nil
}

// parseBytes reads 8GiB, 500MB or a number of bytes.
func parseBytes(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	units := []struct {
		suffix string
		n      float64
	}{{"gib", 1 << 30}, {"mib", 1 << 20}, {"kib", 1 << 10}, {"gb", 1e9}, {"mb", 1e6}, {"kb", 1e3}, {"b", 1}, {"", 1}}
	low := strings.ToLower(strings.TrimSpace(s))
	for _, u := range units {
		num, ok := strings.CutSuffix(low, u.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
		if err != nil || !(v > 0) || v*u.n >= math.MaxInt64 {
			break
		}
		return int64(v * u.n), nil
	}
	return 0, usagef("%q is not a size: write 8GiB or 500MB", s)
}

// sortTimes puts the longest first.
func sortTimes(t []graph.OpTime) {
	slices.SortFunc(t, func(x, y graph.OpTime) int { return cmp.Compare(y.Seconds, x.Seconds) })
}
