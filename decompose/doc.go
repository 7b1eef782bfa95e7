// Package decompose takes matrices apart: truncated singular value
// decompositions, and the sum of s Kronecker products nearest to a matrix.
//
// By Van Loan and Pitsianis (1993), rearranging a matrix K (a1·a2, r1·r2) to
// R(K) (a1·r1, a2·r2) turns every Kronecker product P ⊗ Q into the outer
// product of vec P and vec Q without changing the Frobenius norm. The nearest
// sum of s Kronecker products is therefore the truncated SVD of R(K), by the
// theorem of Eckart and Young. See package kron.
//
// [Truncated] is the decomposition, [NearestKronecker] the application, and
// [Reader] gives both to the initialisations of package adapter.
package decompose
