// Package onnxmodel works on the graphs of ONNX models: it puts adapters into
// them, reads and writes ONNX Runtime's adapter files, and writes a program as a
// graph.
package onnxmodel
