package model

import (
	"encoding/json"
	"math"
)

// Rope holds rotary position settings.
type Rope struct {
	Theta  float64
	Kind   string // default, linear, dynamic, llama3, yarn
	Factor float64
	// OriginalMaxPositions is the context length before scaling (llama3, yarn).
	OriginalMaxPositions  int
	LowFreq, HighFreq     float64 // llama3
	BetaFast, BetaSlow    float64 // yarn
	AttentionFactor       float64 // yarn; 0 means the paper's 0.1·ln(factor) + 1
	MScale, MScaleAllDims float64 // yarn; used together
	Truncate              bool    // yarn: whole dimensions bound the ramp
}

// rope reads rope_theta and rope_scaling, or the newer rope_parameters that
// hold both.
func (s *settings) rope(maxPositions int) *Rope {
	r := &Rope{Theta: s.numberOr("rope_theta", 10000, 1), Kind: "default"}
	key := "rope_parameters"
	v, ok := s.raw(key)
	if !ok {
		key = "rope_scaling"
		v, ok = s.raw(key)
	}
	if partial := s.numberOr("partial_rotary_factor", 1, 0); partial != 1 {
		s.unsupported("partial_rotary_factor", "%v: only whole heads are rotated", partial)
	}
	if !ok {
		return r
	}
	in := &settings{path: s.path}
	if err := json.Unmarshal(v, &in.keys); err != nil {
		s.malformed(key, "%s is not an object", clip(string(v)))
		return r
	}
	r.Theta = in.numberOr("rope_theta", r.Theta, 1)
	r.Kind = in.textOr("rope_type", in.textOr("type", "default"))
	if partial := in.numberOr("partial_rotary_factor", 1, 0); partial != 1 {
		in.unsupported("partial_rotary_factor", "%v: only whole heads are rotated", partial)
	}
	switch r.Kind {
	case "default":
	case "linear", "dynamic":
		// Dynamic scaling changes nothing up to max_position_embeddings,
		// which is the longest sequence that Config.MaxLength admits.
		r.Factor = in.required("factor")
	case "llama3":
		r.Factor = in.required("factor")
		r.LowFreq, r.HighFreq = in.required("low_freq_factor"), in.required("high_freq_factor")
		r.OriginalMaxPositions = in.size("original_max_position_embeddings")
		if in.err == nil && r.LowFreq >= r.HighFreq {
			in.malformed("low_freq_factor", "%v must be below high_freq_factor %v", r.LowFreq, r.HighFreq)
		}
	case "yarn":
		r.Factor = in.required("factor")
		r.OriginalMaxPositions = in.sizeOr("original_max_position_embeddings", maxPositions)
		r.BetaFast, r.BetaSlow = in.numberOr("beta_fast", 32, 0), in.numberOr("beta_slow", 1, 0)
		in.read("attention_factor", &r.AttentionFactor)
		in.read("mscale", &r.MScale)
		in.read("mscale_all_dim", &r.MScaleAllDims)
		r.Truncate = in.boolOr("truncate", true)
	default:
		in.unsupported("rope_type", "%q is not known; known are default, linear, dynamic, llama3, yarn", r.Kind)
	}
	if in.err != nil && s.err == nil {
		s.err = in.err
	}
	return r
}

// required returns a positive number that must be there.
func (s *settings) required(key string) float64 {
	if _, ok := s.raw(key); !ok {
		s.malformed(key, "missing from the rotary scaling")
		return 1
	}
	return s.numberOr(key, 0, 0)
}

// Frequencies returns θ_i in radians per position for the headDim/2 pairs of a
// head, and the factor on cos and sin (1 except for yarn).
//
// default: θ_i = theta^(-2i/headDim) (arXiv 2104.09864, section 3.2.2);
// linear: θ_i/factor (arXiv 2306.15595); llama3: wavelengths above
// original/low divided by factor, those below original/high kept, between
// them interpolated; yarn: NTK-by-parts (arXiv 2309.00071, section 3.2).
func (r *Rope) Frequencies(headDim int) (freq []float32, scale float32) {
	n := headDim / 2
	freq = make([]float32, n)
	low, high := 0.0, 0.0
	if r.Kind == "yarn" {
		low, high = r.yarnRange(headDim)
	}
	for i := range n {
		f := math.Pow(r.Theta, -2*float64(i)/float64(headDim))
		switch r.Kind {
		case "linear":
			f /= r.Factor
		case "llama3":
			f = r.llama3(f)
		case "yarn":
			ramp := min(max((float64(i)-low)/(high-low), 0), 1)
			f = f/r.Factor*ramp + f*(1-ramp)
		}
		freq[i] = float32(f)
	}
	return freq, float32(r.scale())
}

func (r *Rope) llama3(f float64) float64 {
	// Turns of the pair over the original context.
	turns := float64(r.OriginalMaxPositions) * f / (2 * math.Pi)
	switch {
	case turns < r.LowFreq:
		return f / r.Factor
	case turns > r.HighFreq:
		return f
	}
	smooth := (turns - r.LowFreq) / (r.HighFreq - r.LowFreq)
	return (1-smooth)*f/r.Factor + smooth*f
}

// yarnRange returns the pairs between which the ramp from kept to interpolated
// frequencies lies: those that turn BetaFast and BetaSlow times over the
// original context.
func (r *Rope) yarnRange(headDim int) (low, high float64) {
	at := func(turns float64) float64 {
		return float64(headDim) * math.Log(float64(r.OriginalMaxPositions)/(turns*2*math.Pi)) / (2 * math.Log(r.Theta))
	}
	low, high = at(r.BetaFast), at(r.BetaSlow)
	if r.Truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(headDim-1))
	if low == high {
		high += 0.001 // as transformers does: a step instead of 0/0
	}
	return low, high
}

func (r *Rope) scale() float64 {
	if r.Kind != "yarn" {
		return 1
	}
	if r.AttentionFactor != 0 {
		return r.AttentionFactor
	}
	m := func(scale float64) float64 {
		if r.Factor <= 1 {
			return 1
		}
		return 0.1*scale*math.Log(r.Factor) + 1
	}
	if r.MScale != 0 && r.MScaleAllDims != 0 {
		return m(r.MScale) / m(r.MScaleAllDims)
	}
	return m(1)
}
