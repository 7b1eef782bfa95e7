// Package convert writes models and adapters in the forms of other programs,
// and reads the adapters of those programs.
//
// Models: [WriteGGUF] makes the GGUF file that llama.cpp loads, with its
// tokenizer.
//
// Adapters: [Read] reads kohya's and LyCORIS's safetensors files, MLX's
// adapter directories and llama.cpp's GGUF adapters as [adapter.Adapter];
// [WriteKohya], [WriteMLX] and [WriteGGUFAdapter] write them. Where the other
// form has one scale for all modules, what differs goes into the tensors of
// the modules concerned, so that an adapter means the same everywhere.
//
// Every writer returns a [Report], which says of each tensor whether it is
// what it was bit for bit, or how far rounding moved it.
package convert
