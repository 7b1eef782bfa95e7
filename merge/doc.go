// Package merge adds adapters into a checkpoint: W' = W + Σ_i w_i·ΔW_i, each
// element rounded once.
package merge
