// Package merge adds adapters into a checkpoint.
//
//	W' = round(W + Σ_i weight_i·ΔW_i)
//
// Every element is rounded once, to nearest, from the exact sum: the sum is
// computed in float64 with a bound of its error, and the few elements whose
// rounding the bound leaves open are computed again, exactly. So the result depends
// neither on the number of workers nor on the processor.
//
// [NewPlan] checks everything that can be checked before any work: that every
// update finds its tensor with the right shape, that the adapters are finite,
// what the output files will look like. [Plan.Run] then writes them: ranges of
// untouched tensors are copied by the kernel, touched tensors are computed tile by
// tile and written in place by several workers, all into a temporary sibling that
// gets its name when everything is on disk. Memory is bounded by tiles, however large a
// tensor is.
//
// Rounding to a narrow dtype loses small updates. The [Report] says for every
// tensor how many elements kept their old value and how large the rounding error is
// beside the update.
package merge
