package adapter

import (
	"regexp"
	"strconv"

	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// Site is a linear layer of a model: y = x W + bias, W (in, out).
type Site struct {
	// Module is the path of the layer as the checkpoint's tensor names have
	// it, without ".weight": "roberta.encoder.layer.0.attention.self.query".
	Module string
	In     int
	Out    int
	Weight string // tensor name of W
	Bias   string // tensor name of the bias, or ""
	// Transposed says that the checkpoint stores W as (out, in), as torch's
	// nn.Linear does and GPT-2's Conv1D does not.
	Transposed bool
	Layer      int    // index of the layer, or -1
	Kind       string // last element of Module: "query", "q_proj"
	// Output marks an output layer or a classification head, which
	// "all-linear" leaves out.
	Output bool
	// Block marks a block of layers instead of a linear layer, see [Blocks]: it
	// has no weight.
	Block bool
	DType tensor.DType
}

// numbered finds the first numbered element of a module path.
var numbered = regexp.MustCompile(`(?:^|\.)(\d+)(?:\.|$)`)

// layerOf returns the first number in a module path, or -1.
func layerOf(module string) int {
	m := numbered.FindStringSubmatch(module)
	if m == nil {
		return -1
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return -1
	}
	return n
}

// WeightReader gives initialisations that look at the frozen weights what they
// need. Package decompose implements it over a checkpoint.
type WeightReader interface {
	// Weight returns the site's weight W (in, out), row-major.
	Weight(site Site) ([]float64, error)
	// Principal returns the r leading singular triplets of the site's weight,
	// W ≈ Σ_i s_i u_i v_iᵀ with s descending: u (in, r), s (r), v (out, r).
	Principal(site Site, r int) (u, s, v []float64, err error)
	// NearestKronecker returns the sum of terms Kronecker products
	// P_k (a1, r1) ⊗ Q_k (a2, r2) nearest to k (a1·a2, r1·r2) in Frobenius
	// norm: p (terms, a1, r1), q (terms, a2, r2).
	NearestKronecker(k []float64, terms, a1, r1, a2, r2 int) (p, q []float64, err error)
}
