// Package train runs the training of an adapter: the step loop, evaluation,
// and the directory that a run leaves behind.
//
// Nouns. A [Net] is a program with the values that are read of it. A [Job] is
// what is trained on what; [Options] say how. A [Trainer] plans the job ([New]
// touches no device, [Trainer.Estimate] says what it would take) and runs it
// ([Trainer.Run]). An [Event] reports progress. An [Evaluator] runs a net
// forward over a dataset.
//
// # One step
//
// A step accumulates the gradients of Batch.Accumulate batches. The loss is
// normalised over all labels of the step, not over each batch, so n batches of
// size b make the step that one batch of n·b would:
//
//	loss = Σ_batches Σ_labels ℓ / (number of labels in the step)
//
// Then the gradient is clipped by its global norm and AdamW moves the
// parameters with the learning rate of the [Schedule].
//
// # Frozen prefix
//
// [CachePrefix] cuts the programs at the first adapted layer. The hidden states
// that enter it are computed once for each sequence and kept in memory or in a
// scratch file, up to a limit; the loss of a step is then a function of these
// states and of the layers above. They have no dropout below the cut. A resumed
// run computes them again; where they are kept does not matter to it, but a run
// with the cache and one without do not continue each other.
//
// # Files of a run
//
//	train_state.safetensors   everything a resumed run needs; gone when the run is done
//	metrics.jsonl             one event a line: steps, evaluations, end
//	adapter_config.json       the adapter, once the run is done: the best by
//	adapter_model.safetensors the chosen metric if there was an evaluation, else the last
//	run.json                  options and results, written last: the run is done
//
// Each file is replaced as a whole, but for metrics.jsonl, which grows by lines. A
// run that replaces another grows in a directory beside it, and takes its place with
// the first state that is saved: what fails before leaves the old run as it was.
//
// # Resuming
//
// Order of data, dropout masks and learning rate are functions of the seed and
// the position alone, and the state file holds position, parameters, both
// moments of AdamW and the best parameters so far. A run that was killed at any
// moment and resumed therefore ends with the same adapter, bit for bit, as one
// that was not, on an engine that computes the same bits twice. Resuming with
// other options or data is an error that names what differs.
package train
