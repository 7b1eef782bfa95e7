//! C ABI over Hugging Face's `tokenizers`, for a host that runs it as WebAssembly.
//!
//! One module instance holds at most one tokenizer. A call takes its request
//! as bytes that the host wrote into memory from `tk_alloc`, and leaves its
//! answer in a buffer at `tk_out_ptr`, `tk_out_len`. Requests and answers are
//! little-endian u32 words, except the texts themselves. A status of 0 means
//! done; any other status means that the answer is an error message in UTF-8.

mod wire;

use std::sync::{Mutex, MutexGuard};

use tokenizers::tokenizer::{
    Encoding, Model, OffsetType, PostProcessor, PreTokenizer, Tokenizer,
};
use tokenizers::utils::padding::PaddingStrategy;
use tokenizers::{
    PaddingDirection, TruncationDirection, TruncationParams, TruncationStrategy,
};
use wire::{Reader, Words};

const OK: u32 = 0;
const FAILED: u32 = 1;
/// Stands for "none" where a word holds an optional index or id.
const NONE: u32 = u32::MAX;

struct State {
    tokenizer: Option<Tokenizer>,
    out: Vec<u8>,
}

static STATE: Mutex<State> = Mutex::new(State { tokenizer: None, out: Vec::new() });

fn state() -> MutexGuard<'static, State> {
    // A panic aborts the instance, so the lock is never seen poisoned.
    STATE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Runs `f` and leaves its answer, or its error message, in the out buffer.
fn answer(f: impl FnOnce(&mut State) -> Result<Vec<u8>, String>) -> u32 {
    let mut s = state();
    // Free the last answer first: it may be large.
    s.out = Vec::new();
    let (out, status) = match f(&mut s) {
        Ok(out) => (out, OK),
        Err(message) => (message.into_bytes(), FAILED),
    };
    s.out = out;
    status
}

fn loaded(s: &mut State) -> Result<&mut Tokenizer, String> {
    s.tokenizer.as_mut().ok_or_else(|| "no tokenizer is loaded".to_string())
}

unsafe fn bytes<'a>(p: *const u8, n: usize) -> &'a [u8] {
    std::slice::from_raw_parts(p, n)
}

/// Returns n bytes of memory for the host to write to.
#[no_mangle]
pub extern "C" fn tk_alloc(n: usize) -> *mut u8 {
    let mut v = Vec::<u8>::with_capacity(n.max(1));
    let p = v.as_mut_ptr();
    std::mem::forget(v);
    p
}

/// Frees what `tk_alloc(n)` returned.
///
/// # Safety
/// p and n must be those of one earlier call of `tk_alloc`, freed once.
#[no_mangle]
pub unsafe extern "C" fn tk_free(p: *mut u8, n: usize) {
    drop(Vec::from_raw_parts(p, 0, n.max(1)))
}

#[no_mangle]
pub extern "C" fn tk_out_ptr() -> *const u8 {
    state().out.as_ptr()
}

#[no_mangle]
pub extern "C" fn tk_out_len() -> usize {
    state().out.len()
}

/// Loads a tokenizer.json, answers as `tk_info`.
///
/// # Safety
/// p and n must describe readable memory.
#[no_mangle]
pub unsafe extern "C" fn tk_load(p: *const u8, n: usize) -> u32 {
    answer(|s| {
        let mut t = Tokenizer::from_bytes(bytes(p, n)).map_err(|e| e.to_string())?;
        let info = info(&t);
        // The host pads, since only it sees a whole batch.
        t.with_padding(None);
        s.tokenizer = Some(t);
        Ok(info)
    })
}

fn info(t: &Tokenizer) -> Vec<u8> {
    let mut w = Words::new();
    w.push(t.get_vocab_size(false));
    w.push(t.get_vocab_size(true));
    match t.get_truncation() {
        None => w.push(0),
        Some(p) => {
            w.push(1);
            w.push(p.max_length);
            w.push(p.stride);
            w.push(match p.strategy {
                TruncationStrategy::LongestFirst => 0,
                TruncationStrategy::OnlyFirst => 1,
                TruncationStrategy::OnlySecond => 2,
            });
            w.push((p.direction == TruncationDirection::Left) as usize);
        }
    }
    match t.get_padding() {
        None => w.push(0),
        Some(p) => {
            w.push(1);
            w.push(match p.strategy {
                PaddingStrategy::BatchLongest => 0,
                PaddingStrategy::Fixed(n) => n,
            });
            w.push(p.pad_to_multiple_of.unwrap_or(0));
            w.push(p.pad_id as usize);
            w.push(p.pad_type_id as usize);
            w.push(matches!(p.direction, PaddingDirection::Left) as usize);
        }
    }
    let mut added: Vec<_> = t.get_added_tokens_decoder().into_iter().collect();
    added.sort_by_key(|(id, _)| *id);
    w.push(added.len());
    for (id, token) in added {
        w.push(id as usize);
        w.push(token.special as usize);
        w.text(&token.content);
    }
    w.into_bytes()
}

/// How a batch is encoded: the first words of a request.
struct Options {
    special: bool,
    chars: bool,
    offsets: bool,
    plain: bool,
    truncation: Option<TruncationParams>,
}

impl Options {
    fn read(r: &mut Reader) -> Result<Self, String> {
        let flags = r.word()?;
        let max_length = r.word()? as usize;
        let stride = r.word()? as usize;
        let strategy = match r.word()? {
            0 => TruncationStrategy::LongestFirst,
            1 => TruncationStrategy::OnlyFirst,
            2 => TruncationStrategy::OnlySecond,
            n => return Err(format!("unknown truncation strategy {n}")),
        };
        let direction = if flags & 16 != 0 {
            TruncationDirection::Left
        } else {
            TruncationDirection::Right
        };
        Ok(Options {
            special: flags & 1 != 0,
            chars: flags & 2 != 0,
            offsets: flags & 4 != 0,
            plain: flags & 8 != 0,
            truncation: (flags & 32 != 0)
                .then_some(TruncationParams { direction, max_length, strategy, stride }),
        })
    }
}

/// Encodes many inputs. Request: flags, max length, stride, strategy, count,
/// then per input: is pair, length, text and, for a pair, length, text.
/// Answer per input: 0 and the encoding, or 1, length, message.
///
/// # Safety
/// p and n must describe readable memory.
#[no_mangle]
pub unsafe extern "C" fn tk_encode(p: *const u8, n: usize) -> u32 {
    answer(|s| {
        let t = loaded(s)?;
        let mut r = Reader::new(bytes(p, n));
        let o = Options::read(&mut r)?;
        t.set_encode_special_tokens(o.plain);
        let mut w = Words::new();
        for _ in 0..r.word()? {
            let is_pair = r.word()? != 0;
            let first = r.text()?;
            let second = if is_pair { Some(r.text()?) } else { None };
            match encode_one(t, first, second, &o) {
                Ok(e) => {
                    w.push(0);
                    write_encoding(&mut w, &e, o.offsets);
                }
                Err(message) => {
                    w.push(1);
                    w.text(&message);
                }
            }
        }
        Ok(w.into_bytes())
    })
}

fn encode_one(
    t: &mut Tokenizer,
    first: &str,
    second: Option<&str>,
    o: &Options,
) -> Result<Encoding, String> {
    let offsets = match (o.offsets, o.chars) {
        (false, _) => OffsetType::None,
        (true, false) => OffsetType::Byte,
        (true, true) => OffsetType::Char,
    };
    let first = encode_sequence(t, first, 0, offsets)?;
    let second = second.map(|s| encode_sequence(t, s, 1, offsets)).transpose()?;
    if let Some(p) = &o.truncation {
        check_truncation(t, first.len(), second.as_ref().map(Encoding::len), o.special, p)?;
    }
    set_truncation(t, o.truncation.clone())?;
    t.post_process(first, second, o.special).map_err(|e| e.to_string())
}

/// Encodes one text without special tokens and without truncation. The
/// crate's own `encode` stops at max length where truncation is set, and with
/// that loses the overflowing pieces (0.23.2; the Python package keeps them).
fn encode_sequence(
    t: &Tokenizer,
    text: &str,
    type_id: u32,
    offsets: OffsetType,
) -> Result<Encoding, String> {
    let encode = || -> tokenizers::Result<Encoding> {
        let mut splits =
            t.get_added_vocabulary().extract_and_normalize(t.get_normalizer(), text);
        if let Some(pre_tokenizer) = t.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut splits)?;
        }
        splits.tokenize(|s| t.get_model().tokenize(s.get()))?;
        splits.into_encoding(None, type_id, offsets)
    };
    encode().map_err(|e| e.to_string())
}

/// Sets the truncation without the crate's own check, which counts special
/// tokens even where none are asked for; `check_truncation` is exact.
fn set_truncation(t: &mut Tokenizer, p: Option<TruncationParams>) -> Result<(), String> {
    match (t.get_truncation_mut(), p) {
        (None, None) => Ok(()),
        (Some(slot), Some(p)) => {
            *slot = p;
            Ok(())
        }
        (_, None) => t.with_truncation(None).map(|_| ()).map_err(|e| e.to_string()),
        (None, Some(p)) => {
            let lenient = TruncationParams { max_length: u32::MAX as usize, stride: 0, ..p.clone() };
            t.with_truncation(Some(lenient)).map_err(|e| e.to_string())?;
            set_truncation(t, Some(p))
        }
    }
}

/// Refuses what would make the crate panic: fewer places than special tokens,
/// or a stride that is not smaller than the length it cuts a sequence to.
fn check_truncation(
    t: &Tokenizer,
    n1: usize,
    n2: Option<usize>,
    special: bool,
    p: &TruncationParams,
) -> Result<(), String> {
    let added = match t.get_post_processor() {
        Some(post) if special => post.added_tokens(n2.is_some()),
        _ => 0,
    };
    if p.max_length < added {
        return Err(format!(
            "max length {} leaves no room for the {} special tokens",
            p.max_length, added
        ));
    }
    let room = p.max_length - added;
    for (n, keep) in kept(n1, n2, room, p.strategy) {
        if keep > 0 && keep < n && p.stride >= keep {
            return Err(format!(
                "stride {} is not smaller than the {} tokens that remain of a sequence at max length {}",
                p.stride, keep, p.max_length
            ));
        }
    }
    Ok(())
}

/// For each sequence, its length and the length truncation cuts it to.
fn kept(
    n1: usize,
    n2: Option<usize>,
    room: usize,
    strategy: TruncationStrategy,
) -> Vec<(usize, usize)> {
    let total = n1 + n2.unwrap_or(0);
    if total <= room {
        return vec![];
    }
    let over = total - room;
    match (strategy, n2) {
        (TruncationStrategy::LongestFirst, None) => vec![(n1, room)],
        (TruncationStrategy::LongestFirst, Some(n2)) => {
            let short = n1.min(n2);
            let mut k1 = short;
            let mut k2 = if short > room { short } else { short.max(room - short) };
            if k1 + k2 > room {
                k1 = room / 2;
                k2 = k1 + room % 2;
            }
            if n1 > n2 {
                std::mem::swap(&mut k1, &mut k2);
            }
            vec![(n1, k1), (n2, k2)]
        }
        (TruncationStrategy::OnlyFirst, _) => vec![(n1, n1.saturating_sub(over))],
        (TruncationStrategy::OnlySecond, Some(n2)) => vec![(n2, n2.saturating_sub(over))],
        (TruncationStrategy::OnlySecond, None) => vec![],
    }
}

/// Writes an encoding and its overflowing pieces. Layout: number of pieces
/// after the first; then per piece the number of tokens n, n ids, n type ids,
/// n masks (bit 0 special, bit 1 attention, bits 2 and up sequence + 1) and,
/// where offsets are asked for, n starts and ends and n word indices.
fn write_encoding(w: &mut Words, e: &Encoding, offsets: bool) {
    w.push(e.get_overflowing().len());
    write_piece(w, e, offsets);
    for piece in e.get_overflowing() {
        write_piece(w, piece, offsets);
    }
}

fn write_piece(w: &mut Words, e: &Encoding, offsets: bool) {
    w.push(e.len());
    w.extend(e.get_ids());
    w.extend(e.get_type_ids());
    let masks = e.get_special_tokens_mask().iter().zip(e.get_attention_mask());
    for ((special, attention), sequence) in masks.zip(e.get_sequence_ids()) {
        let sequence = sequence.map_or(0, |s| s as u32 + 1);
        w.push((special & 1 | (attention & 1) << 1 | sequence << 2) as usize);
    }
    if !offsets {
        return;
    }
    for (start, end) in e.get_offsets() {
        w.push(*start);
        w.push(*end);
    }
    for word in e.get_word_ids() {
        w.push(word.unwrap_or(NONE) as usize);
    }
}

/// Decodes the n ids (words) at p, answers the text.
///
/// # Safety
/// p and n must describe readable memory.
#[no_mangle]
pub unsafe extern "C" fn tk_decode(p: *const u8, n: usize, skip_special: u32) -> u32 {
    answer(|s| {
        let t = loaded(s)?;
        let ids = Reader::new(bytes(p, n)).rest();
        let text = t.decode(&ids, skip_special != 0).map_err(|e| e.to_string())?;
        Ok(text.into_bytes())
    })
}

/// Answers one word: the id of the token, or `NONE`.
///
/// # Safety
/// p and n must describe readable memory.
#[no_mangle]
pub unsafe extern "C" fn tk_token_to_id(p: *const u8, n: usize) -> u32 {
    answer(|s| {
        let t = loaded(s)?;
        let token = std::str::from_utf8(bytes(p, n)).map_err(|e| e.to_string())?;
        let mut w = Words::new();
        w.push(t.token_to_id(token).unwrap_or(NONE) as usize);
        Ok(w.into_bytes())
    })
}

/// Answers 0, or 1 and the token.
#[no_mangle]
pub extern "C" fn tk_id_to_token(id: u32) -> u32 {
    answer(|s| {
        let t = loaded(s)?;
        let mut w = Words::new();
        match t.id_to_token(id) {
            None => w.push(0),
            Some(token) => {
                w.push(1);
                w.text(&token);
            }
        }
        Ok(w.into_bytes())
    })
}
