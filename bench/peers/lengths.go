// Package peers holds what lsrsurgeon and the Python peers are compared on.
package peers

import _ "embed"

// Lengths is a JSON list of sequence lengths like MRPC's: normal(53, 15),
// rounded and clipped to 20..128 (NumPy's default_rng(1234)).
//
//go:embed lengths.json
var Lengths []byte
