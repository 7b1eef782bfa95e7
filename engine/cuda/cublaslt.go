package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"
)

// The values of cublasLt.h that are used here, the same from version 11 to 13.
const (
	typeF32, typeBF16            = 0, 14
	computeF32, computeTF32      = 68, 77
	descTransA, descEpilogue     = 3, 7
	descBiasPointer              = 8
	epilogueNone, epilogueBias   = 1, 4
	preferWorkspace              = 1
	preferReductions             = 3
	preferAlignmentA             = 5 // B, C, D follow
	reductionsWithoutAtomics     = 2 | 4
	blasWorkspace                = 32 << 20
	blasSuccess, blasUnsupported = 0, 15
)

// blasHeuristic mirrors cublasLtMatmulHeuristicResult_t, 96 bytes.
type blasHeuristic struct {
	algorithm [8]uint64
	_         uint64 // workspace
	state     int32
	_         float32 // waves
	_         [4]int32
}

// blas is cuBLASLt.
type blas struct {
	library
	create        func(h *uintptr) int32
	destroy       func(h uintptr) int32
	newDesc       func(d *uintptr, compute, scale int32) int32
	setDesc       func(d uintptr, attribute int32, v unsafe.Pointer, n uintptr) int32
	freeDesc      func(d uintptr) int32
	newLayout     func(l *uintptr, kind int32, rows, cols uint64, ld int64) int32
	freeLayout    func(l uintptr) int32
	newPreference func(p *uintptr) int32
	setPreference func(p uintptr, attribute int32, v unsafe.Pointer, n uintptr) int32
	freePref      func(p uintptr) int32
	heuristic     func(h, desc, a, b, c, d, preference uintptr, want int32, out *blasHeuristic, got *int32) int32
	matmul        func(h, desc uintptr, alpha unsafe.Pointer, a, la, b, lb uintptr, beta unsafe.Pointer, c, lc, d, ld uintptr, algorithm unsafe.Pointer, workspace, n, stream uintptr) int32

	handle    uintptr
	workspace buffer
	plans     map[blasSpec]*blasPlan
}

// blasSpec is a product D = op(A) B (+ C) of column-major matrices, D (m, n).
type blasSpec struct {
	m, n, k            int
	transA             bool
	lda, ldb, ldc, ldd int
	half, tf32         bool // A, B in bfloat16; else float32, rounded or not
	bias, beta         bool
	align              int
}

// strideBytes has the alignment of all leading dimensions.
func (s blasSpec) strideBytes() int {
	e := 4
	if s.half {
		e = 2
	}
	return e*(s.lda|s.ldb) | 4*(s.ldc|s.ldd)
}

// blasPlan is a product with its chosen algorithm.
type blasPlan struct {
	spec             blasSpec
	desc, a, b, c, d uintptr
	algorithm        [8]uint64
	err              error
}

// openBlas loads cuBLASLt from the first of paths that is there.
func openBlas(paths []string) (*blas, error) {
	l, err := openLibrary(paths)
	if err != nil {
		return nil, err
	}
	b := &blas{library: l, plans: map[blasSpec]*blasPlan{}}
	if err := l.bind([]symbol{
		{&b.create, "cublasLtCreate"}, {&b.destroy, "cublasLtDestroy"}, {&b.newDesc, "cublasLtMatmulDescCreate"},
		{&b.setDesc, "cublasLtMatmulDescSetAttribute"}, {&b.freeDesc, "cublasLtMatmulDescDestroy"}, {&b.newLayout, "cublasLtMatrixLayoutCreate"},
		{&b.freeLayout, "cublasLtMatrixLayoutDestroy"}, {&b.newPreference, "cublasLtMatmulPreferenceCreate"},
		{&b.setPreference, "cublasLtMatmulPreferenceSetAttribute"}, {&b.freePref, "cublasLtMatmulPreferenceDestroy"},
		{&b.heuristic, "cublasLtMatmulAlgoGetHeuristic"}, {&b.matmul, "cublasLtMatmul"},
	}); err != nil {
		return nil, err
	}
	return b, blasError("cublasLtCreate", b.create(&b.handle))
}

func blasError(call string, code int32) error {
	if code == blasSuccess {
		return nil
	}
	return fmt.Errorf("%s: cuBLAS status %d", call, code)
}

// put sets an attribute of a descriptor or preference.
func put[T any](set func(uintptr, int32, unsafe.Pointer, uintptr) int32, object uintptr, attribute int32, v T) int32 {
	code := set(object, attribute, unsafe.Pointer(&v), unsafe.Sizeof(v))
	runtime.KeepAlive(&v)
	return code
}

// plan returns the product s, made on first use. bias is any valid pointer:
// the heuristic wants one.
func (b *blas) plan(s blasSpec, bias ptr) (*blasPlan, error) {
	if p := b.plans[s]; p != nil {
		return p, p.err
	}
	p := &blasPlan{spec: s}
	if p.err = b.describe(p, bias); p.err != nil {
		b.forget(p)
	}
	b.plans[s] = p
	return p, p.err
}

func (b *blas) describe(p *blasPlan, bias ptr) error {
	s := p.spec
	compute, kind := int32(computeF32), int32(typeF32)
	if s.half {
		kind = typeBF16
	} else if s.tf32 {
		compute = computeTF32
	}
	rows, cols := s.m, s.k
	if s.transA {
		rows, cols = cols, rows
	}
	if err := errors.Join(
		blasError("cublasLtMatmulDescCreate", b.newDesc(&p.desc, compute, typeF32)),
		blasError("layout of A", b.newLayout(&p.a, kind, uint64(rows), uint64(cols), int64(s.lda))),
		blasError("layout of B", b.newLayout(&p.b, kind, uint64(s.k), uint64(s.n), int64(s.ldb))),
		blasError("layout of C", b.newLayout(&p.c, typeF32, uint64(s.m), uint64(s.n), int64(s.ldc))),
		blasError("layout of D", b.newLayout(&p.d, typeF32, uint64(s.m), uint64(s.n), int64(s.ldd))),
	); err != nil {
		return err
	}
	if s.transA {
		if err := blasError("transposition", put(b.setDesc, p.desc, descTransA, int32(1))); err != nil {
			return err
		}
	}
	if s.bias {
		if err := errors.Join(
			blasError("epilogue", put(b.setDesc, p.desc, descEpilogue, int32(epilogueBias))),
			blasError("bias", put(b.setDesc, p.desc, descBiasPointer, bias)),
		); err != nil {
			return err
		}
	}
	return b.choose(p)
}

// choose asks the library for an algorithm that gives the same bits each time.
func (b *blas) choose(p *blasPlan) error {
	var pref uintptr
	if err := blasError("cublasLtMatmulPreferenceCreate", b.newPreference(&pref)); err != nil {
		return err
	}
	defer b.freePref(pref)
	codes := []int32{
		put(b.setPreference, pref, preferWorkspace, uint64(b.workspace.n)),
		put(b.setPreference, pref, preferReductions, uint32(reductionsWithoutAtomics)),
	}
	for i := range int32(4) {
		codes = append(codes, put(b.setPreference, pref, preferAlignmentA+i, uint32(p.spec.align)))
	}
	for _, code := range codes {
		if err := blasError("cublasLtMatmulPreferenceSetAttribute", code); err != nil {
			return err
		}
	}
	var found blasHeuristic
	var n int32
	if err := blasError("cublasLtMatmulAlgoGetHeuristic", b.heuristic(b.handle, p.desc, p.a, p.b, p.c, p.d, pref, 1, &found, &n)); err != nil {
		return err
	}
	if n == 0 || found.state != 0 {
		return blasError("cublasLtMatmulAlgoGetHeuristic", blasUnsupported)
	}
	p.algorithm = found.algorithm
	return nil
}

// multiply queues the product.
func (b *blas) multiply(p *blasPlan, stream uintptr, a, x, c, d, bias ptr) error {
	if p.spec.bias {
		if err := blasError("bias", put(b.setDesc, p.desc, descBiasPointer, bias)); err != nil {
			return err
		}
	}
	scale := [2]float32{1, 0}
	if p.spec.beta {
		scale[1] = 1
	}
	code := b.matmul(b.handle, p.desc, unsafe.Pointer(&scale[0]), a, p.a, x, p.b, unsafe.Pointer(&scale[1]), c, p.c, d, p.d,
		unsafe.Pointer(&p.algorithm), b.workspace.p, uintptr(b.workspace.n), stream)
	runtime.KeepAlive(&scale)
	return blasError("cublasLtMatmul", code)
}

// forget frees the descriptors of p.
func (b *blas) forget(p *blasPlan) {
	for _, l := range []uintptr{p.a, p.b, p.c, p.d} {
		if l != 0 {
			b.freeLayout(l)
		}
	}
	if p.desc != 0 {
		b.freeDesc(p.desc)
	}
	p.a, p.b, p.c, p.d, p.desc = 0, 0, 0, 0, 0
}

// close frees everything but the workspace, which belongs to the device.
func (b *blas) close() {
	for _, p := range b.plans {
		b.forget(p)
	}
	b.destroy(b.handle)
}
