package model

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// SitesOf lists the linear layers of any checkpoint: a known family's by its
// configuration, otherwise every tensor that looks like one, see
// [GenericSites]. known tells which. A known family whose weights contradict
// its configuration is an error.
//
// The layers of an ONNX model are those of its graph, see [ONNXSites].
func SitesOf(c *formats.Checkpoint) (sites []adapter.Site, known bool, err error) {
	if c.Format() == formats.FormatONNX {
		sites, err = onnxSites(c)
		return sites, true, err
	}
	m, err := Open(c)
	switch {
	case err == nil:
		return m.Sites(), true, nil
	case errors.Is(err, ErrUnsupported), !hasConfig(c):
		return GenericSites(c), false, nil
	}
	return nil, false, err
}

func hasConfig(c *formats.Checkpoint) bool {
	_, err := os.Stat(filepath.Join(c.Dir(), "config.json"))
	return err == nil
}

var (
	// notLinear are modules whose two-dimensional weights are tables.
	notLinear = regexp.MustCompile(`(^|[._])(embed\w*|\w*embeddings?|wte|wpe|shared|\w*norm\w*|ln_\w+|relative_attention_bias|codebook)$`)
	// outputLayer are the usual names of output layers and heads.
	outputLayer = regexp.MustCompile(`(^|\.)(lm_head|embed_out|output_layer|score|classifier|qa_outputs|predictions\.decoder)(\.|$)`)
	layerNumber = regexp.MustCompile(`\.(\d+)\.`)
)

// GenericSites lists the two-dimensional float tensors named *.weight that are
// not embeddings or norms, taken to be stored (out, in) as torch's nn.Linear
// does. They can be inspected and merged; there is no program for them.
func GenericSites(c *formats.Checkpoint) []adapter.Site {
	var sites []adapter.Site
	for _, t := range c.Tensors() {
		module, ok := strings.CutSuffix(t.Name, ".weight")
		if !ok || len(t.Shape) != 2 || !t.DType.IsFloat() || notLinear.MatchString(module) {
			continue
		}
		s := adapter.Site{Module: module, In: t.Shape[1], Out: t.Shape[0], Weight: t.Name, Transposed: true, Layer: -1,
			Kind: module[strings.LastIndexByte(module, '.')+1:], Output: outputLayer.MatchString(module), DType: t.DType}
		if b, ok := c.Lookup(module + ".bias"); ok && len(b.Shape) == 1 && b.Shape[0] == s.Out {
			s.Bias = b.Name
		}
		if n := layerNumber.FindStringSubmatch(module); n != nil {
			if i, err := strconv.Atoi(n[1]); err == nil {
				s.Layer = i
			}
		}
		sites = append(sites, s)
	}
	return sites
}
