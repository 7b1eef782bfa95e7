// Package decompose takes matrices apart, and adapters and the differences of
// checkpoints with them.
//
// By Van Loan and Pitsianis (1993), rearranging a matrix K (a1·a2, r1·r2) to
// R(K) (a1·r1, a2·r2) turns every Kronecker product P ⊗ Q into the outer
// product of vec P and vec Q without changing the Frobenius norm. The nearest
// sum of s Kronecker products is therefore the truncated SVD of R(K), by the
// theorem of Eckart and Young. See package kron.
//
// Matrices: [Truncated] and [Leading] are singular value decompositions, in
// float64 and for large float32 matrices; [NearestKronecker] is the nearest
// sum of Kronecker products, [FitLSR] the fit of a low-separation-rank update.
//
// Models: [Extract] makes an adapter of the difference of two checkpoints,
// [Diff] and [HeatMap] say what that difference is, [Combine] makes one adapter
// of several, [Refit] one of another kind, and [Reader] gives
// package adapter what its initialisations need.
package decompose
