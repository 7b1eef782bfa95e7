// Package model turns a checkpoint in Hugging Face layout into a list of
// linear layers that adapters can sit on, and into a graph program.
//
// Nouns. A [Model] is a checkpoint whose config.json names a known family
// (bert, roberta, llama, gpt2 and their relatives). A family is one file of
// data: the names of its tensors and the variant of each shared block that it
// uses. A site ([adapter.Site]) is one linear layer. [Model.Build] writes the
// forward program of a task, with the adapter's modules lowered at their sites;
// [graph.Differentiate] then adds the backward pass.
//
// Call [Open], then [Model.Sites] to make or load an adapter, then
// [Model.Build], and hand [Built.Program] and [Built.Weights] to an engine.
//
// The families follow the models of the Python library transformers, whose
// outputs and gradients the tests compare with: the same places of
// dropout, the same epsilons, the same heads. Tokens are packed, so there is
// no padding and no attention mask.
//
// Row vectors, y = x W with W (in, out). torch's nn.Linear stores (out, in),
// GPT-2's Conv1D (in, out); [graph.Weight] says which, and nothing is
// transposed here.
package model
