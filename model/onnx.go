package model

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/onnx"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// adapterWeight matches the names that package onnxmodel gives to an adapter's
// tensors in a graph.
var adapterWeight = regexp.MustCompile(`\.(lora_[AB]\.weight|(lsr_[AB]|krona|kadaptation)[12])$`)

var onnxNumber = regexp.MustCompile(`(?:^|\.)(\d+)(?:\.|$)`)

// ONNXSites lists the linear layers of an ONNX model's graph whose weights
// an adapter can go on. left names the others with the reason: quantised
// weights, weights that Gemm scales, and the tensors of an adapter in the graph.
//
// A module that is called several times is one site; modules that share a
// weight are several.
func ONNXSites(m *onnx.Model) (sites []adapter.Site, left []string) {
	params := map[string]*onnx.Tensor{}
	for i := range m.Graph.Initializers {
		params[m.Graph.Initializers[i].Name] = &m.Graph.Initializers[i]
	}
	for i := range m.Graph.Nodes {
		if t := m.Graph.Nodes[i].Constant(); t != nil {
			params[m.Graph.Nodes[i].Outputs[0]] = t
		}
	}
	outputs := map[string]bool{}
	for i := range m.Graph.Outputs {
		outputs[m.Graph.Outputs[i].Name] = true
	}
	seen := map[[2]string]bool{}
	for _, l := range m.Linears() {
		if l.Problem != "" {
			left = append(left, l.Module+": "+l.Problem)
			continue
		}
		if adapterWeight.MatchString(l.Weight) {
			left = append(left, l.Module+": part of an adapter")
			continue
		}
		if seen[[2]string{l.Weight, l.Module}] {
			continue
		}
		seen[[2]string{l.Weight, l.Module}] = true
		d := tensor.Invalid
		if t := params[l.Weight]; t != nil {
			d = t.Type.DType()
		}
		s := adapter.Site{Module: l.Module, In: l.In, Out: l.Out, Weight: l.Weight, Bias: l.Bias, Transposed: l.Transposed, Layer: layerIn(l.Module),
			Kind: l.Module[strings.LastIndexByte(l.Module, '.')+1:], Output: outputLayer.MatchString(l.Module), DType: d}
		if outputs[m.Graph.Nodes[l.Node].Outputs[0]] {
			s.Output = s.Output || s.Layer < 0
		}
		sites = append(sites, s)
	}
	return sites, left
}

// layerIn is the first number that is an element of a module path, or -1.
func layerIn(module string) int {
	if n := onnxNumber.FindStringSubmatch(module); n != nil {
		if i, err := strconv.Atoi(n[1]); err == nil {
			return i
		}
	}
	return -1
}

// onnxSites are the sites of a checkpoint that is an ONNX model.
func onnxSites(c *formats.Checkpoint) ([]adapter.Site, error) {
	m, err := onnx.Open(c.Path())
	if err != nil {
		return nil, err
	}
	defer m.Close()
	sites, _ := ONNXSites(m)
	return sites, nil
}
