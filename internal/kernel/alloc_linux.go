package kernel

import "syscall"

// adviseHuge asks for huge pages: a product walks many rows at once and would
// miss the TLB otherwise. A kernel without them refuses, which is harmless.
func adviseHuge(raw []byte) { _ = syscall.Madvise(raw, syscall.MADV_HUGEPAGE) }
