// Package cuda runs programs on an NVIDIA GPU: frozen weights, activations,
// parameters, gradients and AdamW's moments stay on the device, batches go in
// and losses come out.
//
// Nothing is linked: libcuda is opened at run time, and cuBLASLt where it is
// found, without cgo. The kernels are CUDA C++ in kernels/, compiled ahead of
// time to PTX for compute capability 8.0, which the driver translates for the
// device at hand and keeps in its cache; users need only the driver.
//
// One goroutine, locked to its thread, owns the context of an engine. A run
// copies the batch through pinned memory on a stream of its own, so that the
// copy overlaps with the micro-batch before, and returns when everything is
// queued; the methods that read, and Step, wait for it. The operations of a program are captured once
// per bucket of batch sizes as a CUDA graph. Kernels read the sizes of the
// batch from device memory, so that one graph serves its whole bucket.
//
// No kernel adds atomically and every sum has a fixed order: the same batches
// give the same bits again.
//
// Precision "f32" multiplies in float32; "tf32" puts matrix products on tensor
// cores with operands of 10 bits of mantissa; "bf16" keeps frozen matrices as
// bfloat16 and multiplies with them so, all other products as tf32. Sums,
// activations, the optimizer and attention are float32 always.
//
// Sums of Kronecker products of all layers are formed in one launch at the
// start of the forward pass, and their gradients in one at the end of the
// backward pass: they depend on nothing but parameters. A KronApply forms its
// matrix in scratch memory, one at a time.
package cuda
