// Package kron is the algebra of low-separation-rank (LSR) adapters: weight
// updates whose two thin factors are short sums of Kronecker products.
//
// The update of a frozen matrix W (in, out), y = x W, is
//
//	W' = W + scale · A B
//	A  = Σ_{k=1..s} A1_k ⊗ A2_k    (in, r)     A1_k (a1, r1), A2_k (a2, r2)
//	B  = Σ_{k=1..s} B1_k ⊗ B2_k    (r, out)    B1_k (r1, b1), B2_k (r2, b2)
//
// with the Kronecker product (P ⊗ Q)[i·p+u, j·q+v] = P[i, j]·Q[u, v] for Q
// (p, q). Source: LSR-Adapt, arXiv 2502.13568. Storing the small matrices
// costs s·(r1·(a1+b1) + r2·(a2+b2)) numbers, against r·(in+out) for the
// factors of a LoRA of the same rank.
//
// # Letters
//
// These letters mean the same everywhere in the module:
//
//	T          tokens, the rows of an activation
//	in, out    the dimensions of the adapted matrix W (in, out)
//	s          terms, the separation rank
//	r = r1·r2  the rank of the update
//	a1·a2      at least in; rows beyond in are cut off
//	b1·b2      at least out; columns beyond out are cut off
//	dX         the gradient of the loss with respect to X
//
// # One tool
//
// Everything follows from the rearrangement R of Van Loan and Pitsianis
// (1993), which maps vec of each Kronecker term to an outer product:
//
//	R(Σ_k P_k ⊗ Q_k) = mat(P)ᵀ mat(Q)
//
// where row k of mat(P) is the row-major P_k. A sum of s terms is therefore
// an ordinary matrix of rank s after rearranging: [Materialize] is one small
// product and a permutation, and the gradients of the terms ([Grad]) are two
// products with the rearranged gradient of the sum.
//
// A factor can also act on an activation without ever being formed: see
// [Apply]. [Choose] decides from operation counts and memory traffic which of
// the two ways is cheaper.
//
// A [Factor] carries its [Shape]; start with [Split] to choose a1 and a2.
// Functions are generic over float32, for training, and float64, for merging
// and for oracles.
package kron
