// Command onnxgo runs a graph of two-dimensional products in onnx-go: a decoder
// of ONNX that shares nothing with this repository. It is a module of its own
// because onnx-go builds with old versions of its dependencies only.
//
//	onnxgo MODEL.onnx ROWS COLS < numbers.json
//
// The standard input is the data of the only input, (ROWS, COLS), and the
// standard output that of the first output, as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"github.com/owulveryck/onnx-go"
	"github.com/owulveryck/onnx-go/backend/x/gorgonnx"
	"gorgonia.org/tensor"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(path, rows, cols string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(rows)
	if err != nil {
		return err
	}
	k, err := strconv.Atoi(cols)
	if err != nil {
		return err
	}
	var x []float32
	if err := json.NewDecoder(os.Stdin).Decode(&x); err != nil {
		return err
	}
	backend := gorgonnx.NewGraph()
	m := onnx.NewModel(backend)
	if err := m.UnmarshalBinary(b); err != nil {
		return err
	}
	if err := m.SetInput(0, tensor.New(tensor.WithShape(n, k), tensor.WithBacking(x))); err != nil {
		return err
	}
	if err := backend.Run(); err != nil {
		return err
	}
	out, err := m.GetOutputTensors()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out[0].Data())
}
