// Package onnx reads and edits ONNX models at the level of protobuf's wire
// format.
//
// A model is read in one pass that records where everything lies: the small
// parts (nodes, names, shapes) are in memory as [Model], the data of tensors
// stay in the file, or in external files, as ranges. So the size of a model does
// not matter, also beyond the 2 GiB that protobuf libraries can hold. An [Edit]
// replaces or adds parts and copies every other byte as it is, unknown fields
// included.
//
// Specification: https://github.com/onnx/onnx, onnx/onnx.proto and docs/IR.md,
// docs/ExternalData.md. All versions of the IR and of operator sets share the
// wire format; operators are not interpreted here except by [Model.Linears].
package onnx
