package main

import (
	"cmp"
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lsrsurgeon/lsrsurgeon/engine/cuda"
	"github.com/lsrsurgeon/lsrsurgeon/internal/kernel"
)

func newDoctor(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Show processors, GPUs and libraries, and which code will run",
		Args:  exactArgs(),
		RunE:  func(*cobra.Command, []string) error { return runDoctor(a) },
	}
}

// cudaOptions are the places that the environment names.
func (a *app) cudaOptions() cuda.Options {
	o := cuda.Options{LibCUDA: a.getenv("LSRSURGEON_LIBCUDA"), CuBLASLt: a.getenv("LSRSURGEON_CUBLASLT")}
	if v := a.getenv("VIRTUAL_ENV"); v != "" { // the wheel nvidia-cublas
		o.SearchPaths = append(o.SearchPaths, v+"/lib/python3*/site-packages/nvidia/*/lib/libcublasLt.so.1*")
	}
	return o
}

func runDoctor(a *app) error {
	r := cuda.Probe(a.cudaOptions())
	if a.json {
		devices := []map[string]any{}
		for _, d := range r.Devices {
			devices = append(devices, map[string]any{"index": d.Index, "name": d.Name, "compute_capability": fmt.Sprintf("%d.%d", d.Major, d.Minor), "memory": d.Memory, "multiprocessors": d.Multiprocessors})
		}
		return a.printJSON(map[string]any{"schema": schemaVersion, "kernels": kernel.Selected(), "kernel_paths": kernel.Paths(), "bf16": kernel.HasBF16(), "threads": runtime.NumCPU(), "tokenizer_cache": a.cacheDir(),
			"cuda": map[string]any{"driver": r.Driver, "driver_version": r.DriverVersion, "devices": devices, "cublaslt": r.CuBLASLt, "products": r.Products, "problem": r.Problem}})
	}
	bf16 := "emulated"
	if kernel.HasBF16() {
		bf16 = "in hardware"
	}
	fmt.Fprintf(a.out, "%-14s %s (of %s), bf16 products %s, %d processors\n", "cpu", kernel.Selected(), strings.Join(kernel.Paths(), ", "), bf16, runtime.NumCPU())
	fmt.Fprint(a.out, r)
	fmt.Fprintf(a.out, "%-14s %s\n", "cache", cmp.Or(a.cacheDir(), "none: the system names no cache directory; give one with LSRSURGEON_CACHE"))
	return nil
}
