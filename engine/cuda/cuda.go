package cuda

import (
	"cmp"
	"errors"
	"fmt"
	"sync"

	"github.com/lsrsurgeon/lsrsurgeon/graph"
)

// Options are the choices of an engine. The zero value is the first GPU in
// float32, with cuBLASLt where it is found.
type Options struct {
	// Device is the number of the GPU.
	Device int
	// Precision is "f32" (or empty), "tf32" or "bf16"; see the package
	// comment.
	Precision string
	// BaseDType is how frozen matrices are held: "f32", "bf16" or "int8" (one
	// scale per output channel). Empty means bf16 with precision "bf16", else
	// f32. "f32" does not go with precision "bf16". Tables of embeddings are
	// bf16 where the base is int8.
	BaseDType string
	// MemoryLimit, if positive, is how many bytes of device memory an
	// executable may take. Without it, what is free when Compile is called.
	MemoryLimit int64
	// LibCUDA is the path of libcuda; empty means the usual places.
	LibCUDA string
	// CuBLASLt is the path of cuBLASLt; empty means the usual places.
	CuBLASLt string
	// SearchPaths are further places of cuBLASLt, with wildcards, as
	// ".../site-packages/nvidia/*/lib/libcublasLt.so.*".
	SearchPaths []string
	// NoCuBLASLt multiplies with this package's own kernels even where
	// cuBLASLt is there.
	NoCuBLASLt bool
	// NoGraphs launches every kernel by itself instead of capturing graphs.
	NoGraphs bool
}

// blasPaths are the places of cuBLASLt.
func (o Options) blasPaths() []string {
	if o.CuBLASLt != "" {
		return []string{o.CuBLASLt}
	}
	return append([]string{"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11",
		"/usr/local/cuda/lib64/libcublasLt.so.1[1-9]", "/usr/local/cuda/targets/*/lib/libcublasLt.so.1[1-9]"}, o.SearchPaths...)
}

// Check reports choices that do not exist or do not go together.
func (o Options) Check() error {
	switch o.Precision {
	case "", "f32", "tf32", "bf16":
	default:
		return fmt.Errorf("cuda: precision %q is unknown; choose f32, tf32 or bf16", o.Precision)
	}
	switch {
	case o.BaseDType == "f32" && o.Precision == "bf16":
		return fmt.Errorf("cuda: base dtype f32 does not go with precision bf16; choose bf16 or int8")
	case o.BaseDType != "" && o.BaseDType != "f32" && o.BaseDType != "bf16" && o.BaseDType != "int8":
		return fmt.Errorf("cuda: base dtype %q is unknown; choose f32, bf16 or int8", o.BaseDType)
	}
	return nil
}

// Engine implements [graph.Engine] on one GPU.
type Engine struct {
	opt Options
	dev *device

	mu    sync.Mutex
	cache map[weightKey]*storedWeight
}

var _ graph.Engine = (*Engine)(nil)

// New opens a GPU. Executables of one engine share the weights that they read
// from the same source. The error says what is missing: the driver, a GPU, a
// newer driver.
func New(o Options) (*Engine, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	o.Precision = cmp.Or(o.Precision, "f32")
	o.BaseDType = cmp.Or(o.BaseDType, map[bool]string{false: "f32", true: "bf16"}[o.Precision == "bf16"])
	d, err := openDriver(o.LibCUDA)
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	var version, n int32
	if err := d.check("cuDriverGetVersion", d.version(&version)); err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	if version < minimumVersion {
		return nil, fmt.Errorf("cuda: %w", oldDriver(version))
	}
	if err := d.check("cuInit", d.init(0)); err != nil {
		return nil, fmt.Errorf("cuda: %w", noDevice(err))
	}
	if err := d.check("cuDeviceGetCount", d.deviceCount(&n)); err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	if o.Device < 0 || o.Device >= int(n) {
		return nil, fmt.Errorf("cuda: there is no GPU %d; %d found", o.Device, n)
	}
	dev, err := openDevice(d, o.Device)
	if err != nil {
		return nil, fmt.Errorf("cuda:%d: %w", o.Device, err)
	}
	e := &Engine{opt: o, dev: dev, cache: map[weightKey]*storedWeight{}}
	if o.NoCuBLASLt {
		return e, nil
	}
	// Without the library our own kernels multiply, unless it was named.
	if err := dev.do(dev.openBlas(o)); err != nil && o.CuBLASLt != "" {
		return nil, fmt.Errorf("cuda:%d: cuBLASLt: %w", o.Device, errors.Join(err, dev.close()))
	}
	return e, nil
}

// Name implements [graph.Engine]: "cuda:0".
func (e *Engine) Name() string { return fmt.Sprintf("cuda:%d", e.opt.Device) }

// Device describes the GPU.
func (e *Engine) Device() Device { return e.dev.info }

// Products says which code multiplies matrices, as in [Report].
func (e *Engine) Products() string {
	if e.HasCuBLASLt() {
		return "cuBLASLt"
	}
	return "own kernels"
}

// HasCuBLASLt reports whether the library was found, and wanted.
func (e *Engine) HasCuBLASLt() bool { return e.dev.blas != nil }

// Close releases the GPU. The executables of e must be closed before.
func (e *Engine) Close() error { return e.dev.close() }

// Compile implements [graph.Engine]. The errors name the tensor that could not
// be read, or say how much memory is needed and which batch would fit;
// those are [syscall.ENOMEM].
func (e *Engine) Compile(p *graph.Program, w graph.WeightSource, d graph.Dims) (graph.Executable, error) {
	if err := graph.Validate(p); err != nil {
		return nil, fmt.Errorf("%s: %w", e.Name(), err)
	}
	x := &executable{device: e.dev, e: e, p: schedule(p), source: w, trains: hasGrads(p)}
	if err := e.dev.do(func() error { return x.build(d) }); err != nil {
		return nil, fmt.Errorf("%s: %w", e.Name(), errors.Join(err, x.Close()))
	}
	return x, nil
}
