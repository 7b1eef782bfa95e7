// Package gguf reads and writes GGUF files, the format of ggml and llama.cpp.
//
// A file is the magic "GGUF", a version, the numbers of tensors and metadata
// entries, the metadata as typed values, a description of every tensor, and the
// data, each tensor at a multiple of the alignment (32 unless the entry
// "general.alignment" says otherwise). All numbers are little-endian.
// Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md,
// versions 2 and 3, whose little-endian files are laid out alike.
//
// [Read] parses everything before the data; [Writer] streams a file tensor by
// tensor. Shapes are row-major, the slowest dimension first as torch has them;
// the file lists them the other way round.
package gguf
