package model

import (
	"math"
	"testing"
)

// parse makes settings of a JSON text.
func parse(t *testing.T, text string) *settings {
	t.Helper()
	s, err := parseSettings("config.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The frequencies are those of transformers 5.24 (modeling_rope_utils,
// ROPE_INIT_FUNCTIONS) for a head of 16, base 10000 and 256 positions.
func TestRopeFrequencies(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		freq   []float64
		scale  float64
	}{
		"default": {`{}`,
			[]float64{1, 0.316227764, 0.100000001, 0.0316227786, 0.00999999978, 0.00316227786, 0.00100000005, 0.000316227786}, 1},
		"linear": {`{"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}}`,
			[]float64{0.25, 0.079056941, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012, 7.90569466e-05}, 1},
		"dynamic": {`{"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}}`,
			[]float64{1, 0.316227764, 0.100000001, 0.0316227786, 0.00999999978, 0.00316227786, 0.00100000005, 0.000316227786}, 1},
		"llama3": {`{"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}`,
			[]float64{1, 0.244384587, 0.0130422562, 0.00395284733, 0.00124999997, 0.000395284733, 0.000125000006, 3.95284733e-05}, 1},
		"yarn": {`{"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}`,
			[]float64{1, 0.237170815, 0.049999997, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012, 7.90569466e-05}, 1.138629436111989},
		"yarn with mscale": {`{"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 0.8, "mscale_all_dim": 0.5, "truncate": false, "beta_fast": 16, "beta_slow": 2, "rope_theta": 10000.0}}`,
			[]float64{1, 0.14849025, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012, 7.90569466e-05}, 1.0388929752217428},
	} {
		s := parse(t, c.config)
		r := s.rope(256)
		if s.err != nil {
			t.Errorf("%s: %v", name, s.err)
			continue
		}
		freq, scale := r.Frequencies(16)
		if len(freq) != len(c.freq) {
			t.Errorf("%s: %d frequencies, want %d", name, len(freq), len(c.freq))
			continue
		}
		for i := range freq {
			// transformers computes in float32, with a few roundings.
			if math.Abs(float64(freq[i])/c.freq[i]-1) > 5e-7 {
				t.Errorf("%s: frequency %d is %v, want %v", name, i, freq[i], c.freq[i])
			}
		}
		if math.Abs(float64(scale)-c.scale) > 1e-7 {
			t.Errorf("%s: scale %v, want %v", name, scale, c.scale)
		}
	}
}
