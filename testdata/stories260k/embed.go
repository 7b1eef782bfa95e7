// Package stories260k holds a real language model small enough to embed: a
// Llama of 260 thousand parameters trained on TinyStories (hidden size 64, five
// layers, eight heads over four key/value heads, vocabulary of 512), as a model
// directory in Hugging Face layout, and a text that it has not learnt
// (Shakespeare) in a training and a held-out part from different plays.
// convert.py made the files; LICENSE says whose they are.
package stories260k

import "embed"

// Files is the model directory: config.json, model.safetensors, tokenizer
// files, and demo_train.txt and demo_eval.txt.
//
//go:embed *.json *.safetensors demo_*.txt LICENSE
var Files embed.FS
