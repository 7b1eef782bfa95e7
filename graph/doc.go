// Package graph describes the computation of one training or evaluation step
// as a short list of coarse operations on packed tokens.
//
// Nouns. A [Program] is a list of operations ([Op]) in execution order over
// values ([Value]). Every value is a row-major float32 matrix whose number of
// rows is a [Rows]: fixed, or given by the batch (tokens T, sequences S,
// picked rows R). There is no padding anywhere: a batch of S sequences with T
// tokens in all is T rows, and CuSeqlens says where each sequence starts.
// Frozen tensors are [Weight]s (read from a checkpoint once, prepacked by the
// engine); trainable ones are [Param]s, which live in one flat buffer so that
// the optimizer and a reduction over processes see one vector.
//
// A model builds the forward program with a [Builder]; [Differentiate]
// appends the backward operations once, before training, and leaves out all
// that the loss does not need; [NewPlan] places every value in one arena by
// lifetime, so peak memory is known before the first step; an [Engine]
// compiles and runs the result.
//
// Convention: row vectors, y = x W with W (in, out).
//
// Letters: T tokens of the batch, S sequences, R picked rows, in, out,
// r = r1*r2 rank, s separation rank (terms).
package graph
