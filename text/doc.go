// Package text turns text into token ids and back, as Hugging Face's Python
// package tokenizers does.
//
// A [Tokenizer] comes from [Load], which reads a model's directory, or from
// [FromJSON], which takes a tokenizer.json. [Tokenizer.Encode] gives one
// [Encoding]; [Tokenizer.EncodeBatch] gives many and uses several cores.
//
// The work is done by Hugging Face's own Rust crate, compiled to WebAssembly
// (directory wasm) and embedded here: its ids, type ids and offsets are those
// of the Python package by construction, and tests compare them line by line.
// The module runs inside the process, without cgo, in a sandbox that sees no
// files, no network and no clock. Machine code is made from it once per
// process, or once per machine where [Options.CacheDir] is set.
//
// Nouns: a token is a piece of text with an id; a special token ([CLS], </s>)
// stands for no text; a pair is two texts encoded into one sequence; type ids
// say which of the two a token belongs to; offsets are the range of the input
// that a token covers; the overflowing pieces of a truncated encoding are the
// rest of the text, cut to the same length.
package text
