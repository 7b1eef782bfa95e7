// Package cpu runs graph programs on the processor.
//
// [New] gives an engine; its Compile packs the frozen weights of a program in
// the layout of the matrix kernels, once, and places all activations in one
// arena (graph.NewPlan). A run then executes the operations in order, each
// on all threads of a fixed pool.
//
// # Words
//
// A job is a part of an operation that one thread does alone. A span is a
// group of neighbouring rows that an elementwise operation treats as one
// vector. A tile is the piece of the score matrix that attention holds at a
// time.
//
// # Determinism
//
// Results do not depend on the number of threads, bit by bit: jobs are cut by
// sizes alone and write disjoint results, and every reduction adds parts of
// fixed size in a fixed order. They do depend on the processor's instruction
// set (kernel.Selected), since a wider kernel adds in another order.
package cpu
