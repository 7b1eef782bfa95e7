// Package cuda runs programs on an NVIDIA GPU: frozen weights, activations,
// parameters, gradients and AdamW's moments stay on the device, batches go in
// and losses come out.
//
// Nothing is linked: libcuda is opened at run time, and cuBLASLt where it is
// found, without cgo. The kernels are CUDA C++ in kernels/, compiled ahead of
// time to PTX for compute capability 8.0; the driver translates each one for the
// device at hand when it is first used and keeps it in its cache. Users need
// only the driver.
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
// cores with operands of 10 bits of mantissa; "bf16" multiplies with frozen
// matrices and in attention with bfloat16 operands, all other products as tf32.
// Sums, activations, softmax and the optimizer are float32 always. Frozen
// matrices are held as the base dtype says: float32, bfloat16, or int8 with a
// scale per output channel, which multiplies results, or, on the way back,
// gradients, so that the integers themselves are exact operands.
//
// Sums of Kronecker products of all layers are formed in one launch at the
// start of the forward pass, and their gradients in one at the end of the
// backward pass: they depend on nothing but parameters. A KronApply forms its
// matrix in scratch memory, one at a time.
package cuda
