package cuda

import (
	"fmt"
	"strings"
)

// Device describes a GPU.
type Device struct {
	Index           int
	Name            string
	Major, Minor    int   // compute capability
	Memory          int64 // bytes in all
	Multiprocessors int
	SharedMemory    int // bytes that a block may ask for
}

// Report is what a machine offers to this engine.
type Report struct {
	Driver        string   // path of libcuda, or empty
	DriverVersion string   // CUDA version that the driver knows, as 12.4
	Devices       []Device // may be empty
	CuBLASLt      string   // path of cuBLASLt, or empty
	// Products says which code multiplies matrices: "cuBLASLt" or "own
	// kernels".
	Products string
	// Problem says why the engine cannot run here; empty when it can.
	Problem string
}

// String formats r, a fact per line.
func (r Report) String() string {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", key, fmt.Sprintf(format, args...))
	}
	if r.Driver != "" {
		line("libcuda", "%s, CUDA %s", r.Driver, r.DriverVersion)
	}
	for _, d := range r.Devices {
		line(fmt.Sprintf("cuda:%d", d.Index), "%s, compute capability %d.%d, %d multiprocessors, %s", d.Name, d.Major, d.Minor, d.Multiprocessors, size(d.Memory))
	}
	if r.CuBLASLt != "" {
		line("cuBLASLt", "%s", r.CuBLASLt)
	}
	if r.Problem != "" {
		line("cuda", "not usable: %s", r.Problem)
	} else {
		line("cuda", "usable; matrix products by %s", r.Products)
	}
	return b.String()
}

// Probe looks for driver, devices and libraries as [New] would with the same
// options. It opens no context and takes no device memory.
func Probe(o Options) Report {
	r := Report{Products: "own kernels"}
	if !o.NoCuBLASLt {
		if l, err := openLibrary(o.blasPaths()); err == nil {
			r.CuBLASLt, r.Products = l.path, "cuBLASLt"
		}
	}
	d, err := openDriver(o.LibCUDA)
	if err != nil {
		r.Problem = err.Error()
		return r
	}
	r.Driver = d.path
	var version, n int32
	if err := d.check("cuDriverGetVersion", d.version(&version)); err != nil {
		r.Problem = err.Error()
		return r
	}
	r.DriverVersion = fmt.Sprintf("%d.%d", version/1000, version%1000/10)
	if version < minimumVersion {
		r.Problem = oldDriver(version).Error()
		return r
	}
	if err := d.check("cuInit", d.init(0)); err != nil {
		r.Problem = noDevice(err).Error()
		return r
	}
	if err := d.check("cuDeviceGetCount", d.deviceCount(&n)); err != nil {
		r.Problem = err.Error()
		return r
	}
	for i := range n {
		v, err := d.describe(i)
		if err != nil {
			r.Problem = err.Error()
			return r
		}
		r.Devices = append(r.Devices, v)
	}
	switch {
	case o.Device < 0 || o.Device >= len(r.Devices):
		r.Problem = fmt.Sprintf("there is no GPU %d; %d found", o.Device, len(r.Devices))
	case r.Devices[o.Device].Major < 8:
		v := r.Devices[o.Device]
		r.Problem = fmt.Sprintf("%s has compute capability %d.%d; 8.0 (Ampere) or newer is needed", v.Name, v.Major, v.Minor)
	}
	return r
}

// minimumVersion is CUDA 11.4, in the driver's numbering.
const minimumVersion = 11040

func oldDriver(version int32) error {
	return fmt.Errorf("the NVIDIA driver knows CUDA %d.%d; update it to %s or newer", version/1000, version%1000/10, minimumDriver)
}

// noDevice explains a failed cuInit.
func noDevice(err error) error {
	return fmt.Errorf("the NVIDIA driver finds no GPU (%w); check nvidia-smi, or compute on the CPU", err)
}
