package adapter_test

import (
	"fmt"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// robertaSites are the linear layers of a RoBERTa classifier.
func robertaSites(layers, hidden, ffn int) []adapter.Site {
	var sites []adapter.Site
	add := func(module string, in, out int, output bool) {
		s := adapter.Site{Module: module, In: in, Out: out, Weight: module + ".weight", Bias: module + ".bias",
			Transposed: true, Layer: -1, Kind: module[strings.LastIndexByte(module, '.')+1:], Output: output, DType: tensor.F32}
		if _, err := fmt.Sscanf(module, "roberta.encoder.layer.%d.", &s.Layer); err != nil {
			s.Layer = -1
		}
		sites = append(sites, s)
	}
	for i := range layers {
		p := fmt.Sprintf("roberta.encoder.layer.%d.", i)
		for _, m := range []string{"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"} {
			add(p+m, hidden, hidden, false)
		}
		add(p+"intermediate.dense", hidden, ffn, false)
		add(p+"output.dense", ffn, hidden, false)
	}
	add("classifier.dense", hidden, hidden, true)
	add("classifier.out_proj", hidden, 2, true)
	return sites
}

// config returns a method's defaults on query and value.
func config(method string) adapter.Config {
	s, err := adapter.Defaults(method, adapter.InitZero)
	if err != nil {
		panic(err)
	}
	c := adapter.Config{Settings: s, Targets: adapter.Targets{Modules: []string{"query", "value"}}, Seed: 1}
	if adapter.OnBlocks(method) {
		c.Targets = adapter.Targets{AllLinear: true}
	}
	return c
}
