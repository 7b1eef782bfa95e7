package cuda

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"
)

// The values of the CUDA driver interface that are used here (cuda.h).
const (
	errOutOfMemory = 2

	attrMultiprocessors = 16
	attrMajor           = 75
	attrMinor           = 76
	attrSharedOptIn     = 97
	funcMaxDynamicSmem  = 8

	streamNonBlocking = 1
	captureLocal      = 1 // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
)

// ptr is an address on the device: not an unsafe.Pointer, which the garbage
// collector would look at.
type ptr = uintptr

// driver is libcuda.
type driver struct {
	library
	init              func(flags uint32) int32
	version           func(v *int32) int32
	deviceCount       func(n *int32) int32
	device            func(d *int32, i int32) int32
	deviceName        func(s *byte, n, d int32) int32
	deviceAttribute   func(v *int32, attribute, d int32) int32
	deviceMemory      func(n *uintptr, d int32) int32
	retainContext     func(c *uintptr, d int32) int32
	releaseContext    func(d int32) int32
	setContext        func(c uintptr) int32
	loadModule        func(m *uintptr, image unsafe.Pointer, n uint32, options, values unsafe.Pointer) int32
	unloadModule      func(m uintptr) int32
	function          func(f *uintptr, m uintptr, name string) int32
	functionAttribute func(f uintptr, attribute, v int32) int32
	memoryInfo        func(free, total *uintptr) int32
	alloc             func(p *ptr, n uintptr) int32
	free              func(p ptr) int32
	allocHost         func(p *unsafe.Pointer, n uintptr, flags uint32) int32
	freeHost          func(p unsafe.Pointer) int32
	toDevice          func(d ptr, s unsafe.Pointer, n, stream uintptr) int32
	toHost            func(d unsafe.Pointer, s ptr, n, stream uintptr) int32
	onDevice          func(d, s ptr, n, stream uintptr) int32
	fill              func(d ptr, v uint8, n, stream uintptr) int32
	newStream         func(s *uintptr, flags uint32) int32
	destroyStream     func(s uintptr) int32
	waitStream        func(s uintptr) int32
	streamWaitEvent   func(s, e uintptr, flags uint32) int32
	newEvent          func(e *uintptr, flags uint32) int32
	destroyEvent      func(e uintptr) int32
	recordEvent       func(e, s uintptr) int32
	waitEvent         func(e uintptr) int32
	elapsed           func(ms *float32, from, to uintptr) int32
	beginCapture      func(s uintptr, mode int32) int32
	endCapture        func(s uintptr, g *uintptr) int32
	instantiate       func(e *uintptr, g uintptr, flags uint64) int32
	launchGraph       func(e, s uintptr) int32
	destroyExec       func(e uintptr) int32
	destroyGraph      func(g uintptr) int32
	errorName         func(e int32, s **byte) int32
	launchKernel      uintptr
}

// driverPaths are where libcuda is looked for: by the system's loader, in
// Windows' Linux, in containers.
var driverPaths = []string{"libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1", "/usr/local/nvidia/lib64/libcuda.so.1"}

// openDriver loads libcuda from path or, where that is empty, from the usual
// places. Names end in _v2 where cuda.h renames by macro.
func openDriver(path string) (*driver, error) {
	paths := driverPaths
	if path != "" {
		paths = []string{path}
	}
	l, err := openLibrary(paths)
	if err != nil {
		return nil, fmt.Errorf("no NVIDIA driver: libcuda was not found (%w); install the driver, or compute on the CPU", err)
	}
	d := &driver{library: l}
	if err := l.bind(d.symbols()); err != nil {
		return nil, fmt.Errorf("the NVIDIA driver is too old: %w; CUDA 11.4 (driver 470) or newer is needed", err)
	}
	return d, nil
}

func (d *driver) symbols() []symbol {
	return []symbol{
		{&d.init, "cuInit"}, {&d.version, "cuDriverGetVersion"}, {&d.deviceCount, "cuDeviceGetCount"}, {&d.device, "cuDeviceGet"},
		{&d.deviceName, "cuDeviceGetName"}, {&d.deviceAttribute, "cuDeviceGetAttribute"}, {&d.deviceMemory, "cuDeviceTotalMem_v2"},
		{&d.retainContext, "cuDevicePrimaryCtxRetain"}, {&d.releaseContext, "cuDevicePrimaryCtxRelease_v2"}, {&d.setContext, "cuCtxSetCurrent"},
		{&d.loadModule, "cuModuleLoadDataEx"}, {&d.unloadModule, "cuModuleUnload"}, {&d.function, "cuModuleGetFunction"},
		{&d.functionAttribute, "cuFuncSetAttribute"}, {&d.memoryInfo, "cuMemGetInfo_v2"}, {&d.alloc, "cuMemAlloc_v2"}, {&d.free, "cuMemFree_v2"},
		{&d.allocHost, "cuMemHostAlloc"}, {&d.freeHost, "cuMemFreeHost"}, {&d.toDevice, "cuMemcpyHtoDAsync_v2"}, {&d.toHost, "cuMemcpyDtoHAsync_v2"},
		{&d.onDevice, "cuMemcpyDtoDAsync_v2"}, {&d.fill, "cuMemsetD8Async"}, {&d.newStream, "cuStreamCreate"}, {&d.destroyStream, "cuStreamDestroy_v2"},
		{&d.waitStream, "cuStreamSynchronize"}, {&d.streamWaitEvent, "cuStreamWaitEvent"}, {&d.newEvent, "cuEventCreate"}, {&d.destroyEvent, "cuEventDestroy_v2"},
		{&d.recordEvent, "cuEventRecord"}, {&d.waitEvent, "cuEventSynchronize"}, {&d.elapsed, "cuEventElapsedTime"}, {&d.beginCapture, "cuStreamBeginCapture_v2"},
		{&d.endCapture, "cuStreamEndCapture"}, {&d.instantiate, "cuGraphInstantiateWithFlags"}, {&d.launchGraph, "cuGraphLaunch"},
		{&d.destroyExec, "cuGraphExecDestroy"}, {&d.destroyGraph, "cuGraphDestroy"}, {&d.errorName, "cuGetErrorName"}, {&d.launchKernel, "cuLaunchKernel"},
	}
}

// Error is a failure of the driver.
type Error struct {
	Call string // what was being done
	Code int32  // CUresult
	Name string // its name, as CUDA_ERROR_OUT_OF_MEMORY
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s: %s (%d)", e.Call, e.Name, e.Code) }

// Is reports whether target is ENOMEM and so is e.
func (e *Error) Is(target error) bool { return e.Code == errOutOfMemory && target == syscall.ENOMEM }

// check returns nil or an [Error] for the result of a call.
func (d *driver) check(call string, code int32) error {
	if code == 0 {
		return nil
	}
	var s *byte
	name := "unknown error"
	if d.errorName(code, &s) == 0 && s != nil {
		name = goString(s)
	}
	return &Error{Call: call, Code: code, Name: name}
}

// outOfMemory reports whether err is the driver's lack of memory.
func outOfMemory(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == errOutOfMemory
}

// goString copies a C string.
func goString(s *byte) string {
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(s), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(s, n))
}
