package cuda

import (
	"fmt"
	"runtime"
	"unsafe"
)

// device is an open GPU. All calls of the driver run on the one goroutine that
// is locked to the thread of its context; do sends work there.
type device struct {
	*driver
	info    Device
	ordinal int32
	handle  int32 // CUdevice
	context uintptr
	code    *ptxText // PTX, translated kernel by kernel when it is first needed
	modules []uintptr
	stream  uintptr // computes
	copies  uintptr // copies batches
	kernels map[string]*kernelHandle
	blas    *blas // nil where cuBLASLt was not found or not wanted
	calls   chan func()

	// The arguments of the launch at hand. They lie in this heap object, so
	// that their addresses stay.
	slots [maxArgs]uint64
	mats  [maxArgs]mat
	ptrs  [maxArgs]unsafe.Pointer
}

const maxArgs = 16

type kernelHandle struct {
	fn     uintptr
	shared int // dynamic shared memory allowed so far
}

// mat mirrors struct Mat of kernels/common.cu.
type mat struct {
	p                   ptr
	ld, rows, cols, add int32
}

// openDevice opens GPU number ordinal and loads the kernels.
func openDevice(d *driver, ordinal int) (*device, error) {
	v := &device{driver: d, ordinal: int32(ordinal), kernels: map[string]*kernelHandle{}, calls: make(chan func())}
	go v.serve()
	if err := v.do(v.open); err != nil {
		close(v.calls)
		return nil, err
	}
	return v, nil
}

func (v *device) serve() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	for f := range v.calls {
		f()
	}
}

// do runs f on the thread of the context.
func (v *device) do(f func() error) error {
	done := make(chan error)
	v.calls <- func() { done <- f() }
	return <-done
}

func (v *device) open() error {
	if err := v.check("cuInit", v.init(0)); err != nil {
		return err
	}
	info, err := v.describe(v.ordinal)
	if err != nil {
		return err
	}
	v.info = info
	if info.Major < 8 {
		return fmt.Errorf("%s has compute capability %d.%d; 8.0 (Ampere) or newer is needed", info.Name, info.Major, info.Minor)
	}
	for _, s := range []struct {
		call string
		run  func() int32
	}{
		{"cuDeviceGet", func() int32 { return v.driver.device(&v.handle, v.ordinal) }},
		{"cuDevicePrimaryCtxRetain", func() int32 { return v.retainContext(&v.context, v.handle) }},
		{"cuCtxSetCurrent", func() int32 { return v.setContext(v.context) }},
		{"cuStreamCreate", func() int32 { return v.newStream(&v.stream, streamNonBlocking) }},
		{"cuStreamCreate", func() int32 { return v.newStream(&v.copies, streamNonBlocking) }},
	} {
		if err := v.check(s.call, s.run()); err != nil {
			return err
		}
	}
	return v.load()
}

// openBlas loads cuBLASLt and its workspace.
func (v *device) openBlas(o Options) func() error {
	return func() error {
		b, err := openBlas(o.blasPaths())
		if err != nil {
			return err
		}
		if b.workspace, err = v.allocate(blasWorkspace); err != nil {
			b.close()
			return err
		}
		v.blas = b
		return nil
	}
}

// load reads the PTX and gives the driver a kernel to translate, which says
// whether it takes the version.
func (v *device) load() error {
	text, err := ptx()
	if err != nil {
		return err
	}
	if v.code, err = splitPTX(text); err != nil {
		return err
	}
	_, err = v.kernel("fill")
	return err
}

// describe asks the driver about device i.
func (d *driver) describe(i int32) (Device, error) {
	var dev int32
	if err := d.check(fmt.Sprintf("GPU %d", i), d.device(&dev, i)); err != nil {
		return Device{}, err
	}
	out := Device{Index: int(i)}
	name := make([]byte, 256)
	if err := d.check("cuDeviceGetName", d.deviceName(&name[0], int32(len(name)), dev)); err != nil {
		return out, err
	}
	out.Name = goString(&name[0])
	var total uintptr
	if err := d.check("cuDeviceTotalMem", d.deviceMemory(&total, dev)); err != nil {
		return out, err
	}
	out.Memory = int64(total)
	for _, a := range []struct {
		attribute int32
		to        *int
	}{{attrMajor, &out.Major}, {attrMinor, &out.Minor}, {attrMultiprocessors, &out.Multiprocessors}, {attrSharedOptIn, &out.SharedMemory}} {
		var n int32
		if err := d.check("cuDeviceGetAttribute", d.deviceAttribute(&n, a.attribute, dev)); err != nil {
			return out, err
		}
		*a.to = int(n)
	}
	return out, nil
}

// close releases the context and ends the thread.
func (v *device) close() error {
	err := v.do(func() error {
		if v.blas != nil {
			v.blas.close()
			if err := v.release(&v.blas.workspace); err != nil {
				return err
			}
		}
		for _, s := range []uintptr{v.stream, v.copies} {
			if err := v.check("cuStreamDestroy", v.destroyStream(s)); err != nil {
				return err
			}
		}
		for _, m := range v.modules {
			if err := v.check("cuModuleUnload", v.unloadModule(m)); err != nil {
				return err
			}
		}
		return v.check("cuDevicePrimaryCtxRelease", v.releaseContext(v.handle))
	})
	close(v.calls)
	return err
}

// grid is the number of blocks along each axis.
type grid struct{ x, y, z int }

// launch queues a kernel. Arguments are uintptr, int (as int32), int64,
// float32, mat, or unsafe.Pointer to a struct that is passed by value.
func (v *device) launch(name string, g grid, block, shared int, args ...any) error {
	k, err := v.kernel(name)
	if err != nil {
		return err
	}
	if shared > max(k.shared, 48<<10) {
		if shared > v.info.SharedMemory {
			return fmt.Errorf("kernel %s needs %d KiB of shared memory and %s has %d KiB", name, shared>>10, v.info.Name, v.info.SharedMemory>>10)
		}
		if err := v.check("cuFuncSetAttribute", v.functionAttribute(k.fn, funcMaxDynamicSmem, int32(shared))); err != nil {
			return err
		}
		k.shared = shared
	}
	for i, a := range args {
		p := unsafe.Pointer(&v.slots[i])
		switch a := a.(type) {
		case uintptr:
			v.slots[i] = uint64(a)
		case int:
			v.slots[i] = uint64(uint32(int32(a)))
		case int64:
			v.slots[i] = uint64(a)
		case float32:
			*(*float32)(p) = a
		case mat:
			v.mats[i] = a
			p = unsafe.Pointer(&v.mats[i])
		case unsafe.Pointer:
			p = a
		default:
			panic(fmt.Sprintf("cuda: argument %d of kernel %s is a %T", i, name, a))
		}
		v.ptrs[i] = p
	}
	code := call(v.launchKernel, k.fn, uintptr(max(g.x, 1)), uintptr(max(g.y, 1)), uintptr(max(g.z, 1)), uintptr(block), 1, 1,
		uintptr(shared), v.stream, uintptr(unsafe.Pointer(&v.ptrs[0])), 0)
	runtime.KeepAlive(args)
	return v.check("kernel "+name, int32(code))
}

// kernel returns a kernel, which the driver translates on first use: no
// program uses all of them, and translating takes seconds.
func (v *device) kernel(name string) (*kernelHandle, error) {
	if k := v.kernels[name]; k != nil {
		return k, nil
	}
	image, err := v.code.module(name)
	if err != nil {
		return nil, err
	}
	var m uintptr
	code := v.loadModule(&m, unsafe.Pointer(&image[0]), 0, nil, nil)
	runtime.KeepAlive(image)
	if err := v.check("loading kernel "+name, code); err != nil {
		if outOfMemory(err) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: the driver does not take PTX %s; update it to %s or newer", err, ptxVersion, minimumDriver)
	}
	v.modules = append(v.modules, m)
	k := &kernelHandle{}
	if err := v.check("kernel "+name, v.function(&k.fn, m, name)); err != nil {
		return nil, err
	}
	v.kernels[name] = k
	return k, nil
}

// buffer is memory on the device.
type buffer struct {
	p ptr
	n int64
}

// allocate returns n bytes; none for 0.
func (v *device) allocate(n int64) (buffer, error) {
	if n <= 0 {
		return buffer{}, nil
	}
	b := buffer{n: n}
	if err := v.check(fmt.Sprintf("allocating %s", size(n)), v.alloc(&b.p, uintptr(n))); err != nil {
		return buffer{}, err
	}
	return b, nil
}

// release gives b back.
func (v *device) release(b *buffer) error {
	if b.p == 0 {
		return nil
	}
	err := v.check("cuMemFree", v.free(b.p))
	*b = buffer{}
	return err
}

// wait waits for everything queued on the computing stream.
func (v *device) wait() error { return v.check("waiting for the GPU", v.waitStream(v.stream)) }

// pinned is host memory that the device can copy by itself.
type pinned struct {
	p     unsafe.Pointer
	bytes []byte
}

func (v *device) pin(n int) (pinned, error) {
	var m pinned
	if err := v.check("cuMemHostAlloc", v.allocHost(&m.p, uintptr(max(n, 1)), 0)); err != nil {
		return m, err
	}
	m.bytes = unsafe.Slice((*byte)(m.p), n)
	return m, nil
}

func (v *device) unpin(m *pinned) error {
	if m.p == nil {
		return nil
	}
	err := v.check("cuMemFreeHost", v.freeHost(m.p))
	*m = pinned{}
	return err
}

// floats views pinned bytes as float32.
func floats(b []byte) []float32 {
	if len(b) < 4 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), len(b)/4)
}

// size formats bytes for messages.
func size(n int64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
