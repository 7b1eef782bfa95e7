package cuda

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
)

// The PTX is for compute capability 8.0 and of a version that drivers of CUDA
// 11.4 know.
const (
	ptxVersion    = "7.1"
	minimumDriver = "470 (CUDA 11.4)"
)

// ptxImage is what NVRTC made of kernels/*.cu; see TestPTX, which makes it.
//
//go:embed kernels/kernels.ptx.gz
var ptxImage []byte

func ptx() ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(ptxImage))
	if err == nil {
		var text []byte
		if text, err = io.ReadAll(z); err == nil {
			return text, nil
		}
	}
	return nil, fmt.Errorf("the embedded kernels: %w", err)
}
