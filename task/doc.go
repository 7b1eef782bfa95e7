// Package task reads labelled and plain text, turns it into packed batches of
// tokens, and scores what a model made of them.
//
// Nouns. A [Spec] is what is known of a task before any file is read: its
// kind, label names, metrics and usual length; [Lookup] finds one by name. An
// [Example] is one input with its answer; [Read] returns those of a [Split]. A
// [Dataset] holds them tokenised, without padding. A [Plan] is the order of
// one epoch, a pure function of (seed, epoch), so that training resumes from a
// position alone; [Dataset.Fill] writes one [Batch] of it. [Score] compares
// [Output] values with the examples.
//
// Call [Lookup], [Read], [NewDataset], [Dataset.Plan], [Dataset.Fill], [Score].
//
// # Layouts
//
// GLUE files are tab-separated without quoting: a quote is a character like
// any other and lines are cut at tabs alone. SuperGLUE files are JSON lines,
// as are other tasks' when the file's name ends in .jsonl or .json. Every file is
// UTF-8; a byte order mark is skipped; a line ends in LF or CR LF.
//
// A path is a file, or a directory with one file a split: train, then dev,
// val, valid or validation, then test, with .tsv, .csv, .jsonl, .json or .txt.
//
// # Tasks that are turned into classification
//
// SuperGLUE's tasks that are not plain classification are read as follows, so
// that one linear head serves all of them.
//
//   - BoolQ: text is the question, pair the passage ("title -- passage" where
//     the file has the keys title and answer of the original release).
//   - COPA: two examples a question: text is the premise and "What was the
//     cause?" or "What happened as a result?", pair is one choice, and the label
//     says whether it is the right one. The answer is the choice with the larger
//     log-odds of being right; accuracy counts questions.
//   - MultiRC: one example an answer: text is the paragraph, pair the question
//     and the answer. Metrics: f1a, the F1 over all answers, and em, the share of
//     questions with all answers right.
//   - ReCoRD: one example a distinct entity of the passage: text is the
//     passage, pair the query with the entity in place of @placeholder. The entity
//     with the largest log-odds is the answer. Metrics: f1 and em, the best over
//     the accepted answers, after SQuAD's normalisation.
//   - WiC: text is "word: sentence1", pair sentence2.
//   - WSC: text is the text with the pronoun between asterisks, pair the
//     noun phrase that it may refer to. The noun phrase's and the pronoun's places
//     are kept in Example.Spans, as are WiC's words.
//
// Example.Spans count bytes of Text and Pair; the files count characters (WiC) or
// words (WSC).
package task
