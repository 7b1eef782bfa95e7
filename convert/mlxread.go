package convert

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// readMLX reads an adapter directory of mlx-lm.
func readMLX(dir string, sites []adapter.Site) (_ *adapter.Adapter, err error) {
	path := filepath.Join(dir, mlxConfig)
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := decodeMLX(raw)
	if err != nil {
		return nil, &formats.Error{Path: path, Reason: err.Error(), Hint: "an adapter that mlx_lm.lora trained has fine_tune_type lora and lora_parameters", Err: formats.ErrUnsupported}
	}
	file := filepath.Join(dir, mlxTensors)
	ck, err := formats.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := ck.Close(); err == nil {
			err = e
		}
	}()
	index := siteIndex{path: file, sites: sites}
	if index.paths, err = readPaths(ck); err != nil {
		return nil, err
	}
	var modules []adapter.Module
	for _, ta := range ck.Tensors() {
		name, ok := strings.CutSuffix(ta.Name, ".lora_a")
		if !ok {
			if n, isB := strings.CutSuffix(ta.Name, ".lora_b"); isB {
				if _, there := ck.Lookup(n + ".lora_a"); there {
					continue
				}
			}
			return nil, &formats.Error{Path: file, Tensor: ta.Name, Reason: "no lora_a or lora_b of a pair", Hint: "an adapter whose other layers were trained whole is no LoRA; fuse it with mlx_lm first", Err: formats.ErrUnsupported}
		}
		m, err := mlxModule(ck, file, name, ta, &index, *c.Parameters.Scale)
		if err != nil {
			return nil, err
		}
		m.Dropout = c.Parameters.Dropout
		modules = append(modules, m)
	}
	return assemble(dir, modules, adapter.Config{BaseModel: c.Model, TaskType: "CAUSAL_LM"})
}

func mlxModule(ck *formats.Checkpoint, file, name string, ta formats.Tensor, index *siteIndex, scale float64) (adapter.Module, error) {
	tb, ok := ck.Lookup(name + ".lora_b")
	if !ok || len(ta.Shape) != 2 || len(tb.Shape) != 2 || ta.Shape[1] != tb.Shape[0] || ta.Shape[1] < 1 {
		return adapter.Module{}, &formats.Error{Path: file, Tensor: name, Reason: fmt.Sprintf("lora_a %v and lora_b %v are not (in, r) and (r, out)", ta.Shape, tb.Shape), Hint: "a LoRA of linear layers is read", Err: formats.ErrUnsupported}
	}
	in, r, out := ta.Shape[0], ta.Shape[1], tb.Shape[1]
	a, b := make([]float32, in*r), make([]float32, r*out)
	if err := ck.ReadF32(ta, 0, int64(len(a)), a); err != nil {
		return adapter.Module{}, err
	}
	if err := ck.ReadF32(tb, 0, int64(len(b)), b); err != nil {
		return adapter.Module{}, err
	}
	s, err := index.byPath(name, in, out)
	return loraModule(s, r, scale*float64(r), transposed(a, in, r), transposed(b, r, out)), err
}
